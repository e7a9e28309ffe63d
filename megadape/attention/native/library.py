"""Finds the native kernels and the instruction set to run them with.

The kernels are a plain shared library that ``setup.py`` builds beside this file where there is a C++ compiler. It has a
C interface (``kernel/interface.h``) and is called through ctypes. Where it is missing or too old, ``load`` gives the
reason as a sentence and nothing fails.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch  # noqa: F401 - loaded first, so that the library shares its OpenMP threads

from megadape.errors import AttentionError

ABI = 2
"""Version of the interface that function.py speaks; the library must speak the same."""

LIBRARY_NAME = "_kernels.so"

ISA_VARIABLE = "MEGADAPE_NATIVE_ISA"
"""Environment variable that forces an instruction set: portable, avx2, avx512 or avx512bf16."""


@dataclass(frozen=True)
class Missing:
    """The library cannot be used."""

    reason: str


@dataclass(frozen=True)
class InstructionSet:
    """The kernels as compiled for one instruction set."""

    name: str
    number: int
    bfloat16: bool
    """Whether it multiplies bfloat16 itself; else such tensors are computed in float32."""


class Library:
    """The loaded shared library."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        self._handle = handle
        handle.megadape_native_isa_name.restype = ctypes.c_char_p
        numbers = range(handle.megadape_native_isa_count())
        self._names = [handle.megadape_native_isa_name(number).decode() for number in numbers]

    def supported(self) -> list[str]:
        """Instruction sets of this processor that the library has kernels for, best first."""
        return [name for n, name in enumerate(self._names) if self._handle.megadape_native_isa_supported(n)]

    def instruction_set(self, name: str | None = None) -> InstructionSet:
        """The named instruction set, else the one that ``MEGADAPE_NATIVE_ISA`` names, else the best.

        Raises:
            AttentionError: where the processor, or the library, does not have it.
        """
        supported = self.supported()
        wanted = name or os.environ.get(ISA_VARIABLE) or supported[0]
        if wanted not in supported:
            raise AttentionError(
                f"the native kernels cannot run with {ISA_VARIABLE}={wanted} here; "
                f"this processor can use {', '.join(supported)}"
            )
        number = self._names.index(wanted)
        return InstructionSet(wanted, number, bool(self._handle.megadape_native_has_bfloat16(number)))

    def forward(self, isa: InstructionSet, problem: ctypes.Structure, bfloat16: bool) -> None:
        """Run the forward kernel on a filled ``Problem``; ``bfloat16`` tells what q, k, v and the output are."""
        self._check(self._handle.megadape_native_forward(isa.number, int(bfloat16), ctypes.byref(problem)))

    def backward(self, isa: InstructionSet, problem: ctypes.Structure, bfloat16: bool) -> None:
        """Run the backward kernel on a filled ``Problem``."""
        self._check(self._handle.megadape_native_backward(isa.number, int(bfloat16), ctypes.byref(problem)))

    @staticmethod
    def _check(status: int) -> None:
        if status != 0:
            raise MemoryError("the native attention kernels could not get their working memory")


def load(path: Path | None = None) -> Library | Missing:
    """The library beside this file, or at ``path``; each path is loaded once."""
    return _load(path or Path(__file__).with_name(LIBRARY_NAME))


@cache
def _load(path: Path) -> Library | Missing:
    if not path.exists():
        return Missing(
            f"the native kernels are not built: {path.name} is missing, `pip install` with a C++ compiler makes it"
        )
    try:
        handle = ctypes.CDLL(str(path))
    except OSError as error:
        return Missing(f"the native kernels cannot be loaded: {error}")
    version = getattr(handle, "megadape_native_abi", None)
    if version is None or version() != ABI:
        return Missing(f"the native kernels are of another version ({path.name}); `pip install` builds them anew")
    return Library(handle)
