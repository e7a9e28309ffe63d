"""All mixers by name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from megadape.attention.mixer import DapeSettings, NoMixer
from megadape.attention.mixer_v2 import DapeV2Settings

MixerSettings = Annotated[NoMixer | DapeSettings | DapeV2Settings, Field(discriminator="kind")]
"""Settings of any mixer, told apart by ``kind``."""
