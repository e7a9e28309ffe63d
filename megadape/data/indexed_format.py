"""The MMIDIDX format of fairseq, GPT-NeoX, Megatron-DeepSpeed and Megatron-core: header, token types, names of the two
files.

``PREFIX.bin`` holds the token ids of all sequences, little-endian, with no header. ``PREFIX.idx`` holds, little-endian
and
unaligned: 9 bytes of magic, u64 version, u8 token type, u64 N sequences, u64 D document bounds, i32[N] tokens of each
    sequence, i64[N] byte offsets, i64[D] first sequence of each document (and, in the multimodal variant, i8[N] modes).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megadape.data.files import PathLike, with_ending
from megadape.errors import DataError

MAGIC = b"MMIDIDX\0\0"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, token type, N, D."""

SIZE: np.dtype[np.int32] = np.dtype("<i4")
OFFSET: np.dtype[np.int64] = np.dtype("<i8")
DOCUMENT: np.dtype[np.int64] = np.dtype("<i8")

TOKEN_DTYPES: dict[int, np.dtype[np.integer]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    8: np.dtype("<u2"),
}
"""Token type code -> dtype. Codes 6 and 7 are float32 and float64, in which order depends on the project: refused."""

_U16_VOCABULARY = 65500
"""Vocabularies below this size are written as u16 (the bound that Megatron uses)."""


def bin_path(prefix: PathLike) -> Path:
    """``PREFIX.bin``."""
    return with_ending(prefix, ".bin")


def idx_path(prefix: PathLike) -> Path:
    """``PREFIX.idx``."""
    return with_ending(prefix, ".idx")


def best_dtype(vocab_size: int) -> np.dtype[np.integer]:
    """The smallest token type that Megatron would choose: u16 for fewer than 65,500 ids, else i32."""
    return TOKEN_DTYPES[8] if vocab_size < _U16_VOCABULARY else TOKEN_DTYPES[4]


def code_of(dtype: npt.DTypeLike) -> int:
    """The code of a token dtype; ``DataError`` for a type that the format has no code for."""
    wanted = np.dtype(dtype).newbyteorder("<")
    for code, known in TOKEN_DTYPES.items():
        if known == wanted:
            return code
    names = ", ".join(known.name for known in TOKEN_DTYPES.values())
    raise DataError(f"an indexed dataset cannot hold tokens of type {wanted.name}: choose one of {names}")


def dtype_of(code: int, path: Path) -> np.dtype[np.integer]:
    """The token dtype of a code read from ``path``."""
    if code in (6, 7):
        raise DataError(
            f"{path} holds floating-point tokens (type code {code}, float32 or float64): "
            "only integer token ids can be read"
        )
    if code not in TOKEN_DTYPES:
        raise DataError(f"{path} has the unknown token type code {code}: the file is damaged or not an indexed dataset")
    return TOKEN_DTYPES[code]
