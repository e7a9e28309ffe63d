"""Bytes as tokens: the UTF-8 bytes of the text, 0..255, and 256 for the end of a document."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from megadape.data.tokenizers.base import Ids, Tokenizer, TokenizerSettingsBase, digest_of


class ByteTokenizerSettings(TokenizerSettingsBase):
    """One token per UTF-8 byte; nothing to train, nothing to store."""

    kind: Literal["byte"] = "byte"

    special_tokens_in_text: Literal["text"] = "text"
    """The end of a document has no name in a text here."""

    def build(self) -> ByteTokenizer:
        """The tokenizer."""
        return ByteTokenizer()


class ByteTokenizer(Tokenizer):
    """Ids 0..255 are bytes, 256 ends a document."""

    def __init__(self) -> None:
        super().__init__("byte", vocab_size=257, eod=256, digest=digest_of("byte"))

    def token_bytes(self) -> npt.NDArray[np.int64]:
        """1 for every byte, 0 for the end of a document."""
        return np.array([1] * 256 + [0], np.int64)

    def _encode(self, text: str) -> Ids:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def _decode(self, ids: list[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")
