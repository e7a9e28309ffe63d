"""Attention with position biases and DAPE's mixing of heads."""

from megadape.attention.dispatch import BACKENDS, choose, dape_attention
from megadape.attention.documents import Documents
from megadape.attention.mixer import VARIANTS, DapeMixer, DapeSettings, NoMixer
from megadape.attention.mixer_v2 import DapeV2Mixer, DapeV2Settings
from megadape.attention.mixers import MixerSettings
from megadape.attention.reference import Logits, explain
from megadape.attention.request import Backend, Request, make_request

__all__ = [
    "BACKENDS",
    "VARIANTS",
    "Backend",
    "DapeMixer",
    "DapeSettings",
    "DapeV2Mixer",
    "DapeV2Settings",
    "Documents",
    "Logits",
    "MixerSettings",
    "NoMixer",
    "Request",
    "choose",
    "dape_attention",
    "explain",
    "make_request",
]
