"""The backend: from a request to the kernels' tables."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from megadape.attention.gpu.chunks import Budget
from megadape.attention.request import Request
from megadape.attention.tables import Network, Tables, make_network, make_tables, refuses_terms
from megadape.positions.fire import Fire, Linear

MAX_HEADS = 32
MAX_HIDDEN = 64
MAX_HEAD_DIM = 128
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Triton:
    """Biases that depend on the distance alone, and FIRE, with or without DAPE, on an NVIDIA GPU.

    Triton is imported with the first call. Where ``TRITON_INTERPRET`` is set by then, the kernels are interpreted, on
    the CPU: slowly, for tests.

    Args:
        budget: how large a chunk may be; more scores in float16 than the L2 cache holds cost less than their number of
            launches would.
        programs: that a launch should have: four on each of 132 processors.
    """

    budget: Budget = field(default_factory=Budget)
    programs: int = 528
    name: str = "triton"

    def refuses(self, request: Request) -> str | None:
        """As in ``Backend``."""
        return _refuses_place(request.device) or _refuses_shape(request) or refuses_terms(request)

    def __call__(self, request: Request) -> Tensor:
        """As in ``Backend``."""
        from megadape.attention.gpu.function import triton_attention

        # kernels start on the current device
        with torch.autocast(request.device.type, enabled=False), torch.cuda.device_of(request.q):
            return triton_attention(
                request.q,
                request.k,
                request.v,
                *_make_terms(request),
                causal=request.causal,
                scale=request.scale,
                budget=self.budget,
                programs=self.programs,
            )


def _make_terms(request: Request) -> tuple[Tables, Network | None]:
    if isinstance(request.bias, Fire):
        return make_network(request)
    return make_tables(request), None


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, or will, once it is imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def _refuses_place(device: torch.device) -> str | None:
    if not _installed():
        return "needs Triton, which is not installed"
    if device.type == "cpu" and interpreted():
        return None
    if device.type != "cuda" or torch.version.cuda is None:
        return f"runs on NVIDIA GPUs, not on {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "needs a GPU of compute capability 8.0 or later"
    return None


def _units(fire: Fire) -> int:
    first = fire.mlp[0]
    assert isinstance(first, Linear), "FIRE's network has one hidden layer"
    return len(first.bias)


def _refuses_shape(request: Request) -> str | None:
    _, heads, _, width = request.q.shape
    if request.dtype not in DTYPES:
        return f"computes in bfloat16, float16 and float32, not in {str(request.dtype).removeprefix('torch.')}"
    if request.mixer is not None and heads > MAX_HEADS:
        return f"mixes up to {MAX_HEADS} heads, not {heads}"
    if request.mixer is not None and request.mixer.hidden > MAX_HIDDEN:
        return f"takes mixers of up to {MAX_HIDDEN} hidden units, not {request.mixer.hidden}"
    if isinstance(request.bias, Fire) and _units(request.bias) > MAX_HIDDEN:
        return f"takes networks of up to {MAX_HIDDEN} units in FIRE, not {_units(request.bias)}"
    if max(width, request.v.shape[3]) > MAX_HEAD_DIM:
        return f"takes head dimensions up to {MAX_HEAD_DIM}, not {max(width, request.v.shape[3])}"
    return None
