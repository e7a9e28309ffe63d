"""Exact DAPE attention on the CPU in C++: AVX-512, AVX512-BF16, AVX2 or portable, chosen when it runs.

``library.py`` finds the shared library that ``setup.py`` builds, ``function.py`` calls it under autograd,
``backend.py`` fills its tables, ``pieces.py`` brings FIRE into its form, ``kernel/`` holds the C++; there, begin with
interface.h, blocks.h and forward.h.
"""

from megadape.attention.native.backend import Native
from megadape.attention.native.function import Pieces, native_attention, refusal
from megadape.attention.native.library import InstructionSet, Library, Missing, load
from megadape.attention.tables import Tables

__all__ = ["InstructionSet", "Library", "Missing", "Native", "Pieces", "Tables", "load", "native_attention", "refusal"]
