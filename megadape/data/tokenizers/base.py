"""What a tokenizer must be able to do.

A tokenizer turns text into token ids and back, says how many bytes of text each id stands for, and has an identity: a
digest of everything that decides which ids a text gets. A text that happens to contain the name of a control token
(``<|endoftext|>``, ``</s>``) is text like any other, unless ``special_tokens_in_text: special`` asks for the control
token.

Encoding many texts at once is where a corpus spends its time: ``encode_flat`` and ``encode_batch`` may take another way
than ``encode``, but give the same ids.

Adding a tokenizer: one file beside this one with a settings class and a tokenizer class, one line in the registry.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from megadape.errors import TokenizerError
from megadape.settings import Settings

Ids = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.int64]

SpecialTokens = Literal["text", "special"]
"""What a control token's name in a text becomes: text like any other, or the control token."""


FastPath = Literal["auto", "always", "never"]
"""Whether tiktoken runs a byte-level vocabulary."""


class NotFastError(TokenizerError):
    """Why tiktoken cannot run a vocabulary."""


class Tokenizer(ABC):
    """Text to token ids and back.

    Args:
        name: what it is called in logs and tables.
        vocab_size: ids are 0 .. vocab_size - 1.
        eod: id that ends a document; no text gets it unless special tokens in texts are asked for.
        digest: SHA-256 of everything that decides which ids a text gets.
    """

    def __init__(self, name: str, vocab_size: int, eod: int, digest: str) -> None:
        self.name = name
        self.vocab_size = vocab_size
        self.eod = eod
        self.digest = digest

    def encode(self, text: str) -> Ids:
        """The ids of a text: [n] int32; ``TokenizerError`` for a lone surrogate, which no UTF-8 text holds."""
        require_utf8(text)
        return self._encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of several texts."""
        return [self.encode(text) for text in texts]

    def encode_flat(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """The ids of several texts, one after the other, and how many each has: [sum of lengths], [texts]."""
        return joined(self.encode_batch(texts))

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of the ids; control tokens stand for no text, bytes that are no UTF-8 become U+FFFD."""
        numbers = np.asarray(ids, np.int64)
        wrong = numbers[(numbers < 0) | (numbers >= self.vocab_size)]
        if wrong.size:
            raise TokenizerError(
                f"token id {wrong[0]} is outside of the vocabulary of {self.name} (0 to {self.vocab_size - 1})"
            )
        return self._decode(numbers.tolist())

    @abstractmethod
    def token_bytes(self) -> npt.NDArray[np.int64]:
        """[vocab_size], UTF-8 bytes of text that each id stands for; 0 for control tokens."""

    @abstractmethod
    def _encode(self, text: str) -> Ids: ...

    @abstractmethod
    def _decode(self, ids: list[int]) -> str: ...


class TokenizerSettingsBase(Settings, ABC):
    """What every tokenizer's settings have."""

    COPIES: ClassVar[dict[str, str]] = {}
    """Field that holds a file -> ending of the copy of that file beside a dataset: ``PREFIX.`` + ending."""

    IMMATERIAL: ClassVar[frozenset[str]] = frozenset()
    """Fields that change no id, and that a dataset's manifest does not keep."""

    kind: str
    """Which tokenizer."""

    @abstractmethod
    def build(self) -> Tokenizer:
        """The tokenizer; ``TokenizerError`` when a file is missing or malformed."""

    def files(self) -> dict[str, Path]:
        """Field -> file that the tokenizer is made from."""
        return {name: getattr(self, name) for name in self.COPIES}


def require_utf8(text: str) -> None:
    """``TokenizerError`` for a text without UTF-8 form; some libraries would change it, others give no reason."""
    if text.isascii():  # known without a look at the text
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"character {error.start} ({text[error.start]!r})"
        raise TokenizerError(
            f"a text cannot be encoded: {where} is half of a surrogate pair and has no UTF-8 form"
        ) from error


def joined(ids: Sequence[Ids]) -> tuple[Ids, Lengths]:
    """The ids of several texts, one after the other, and how many each has."""
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    return np.concatenate([np.empty(0, np.int32), *ids]), lengths


def apart(ids: Ids, lengths: Lengths) -> list[Ids]:
    """The inverse of ``joined``: views."""
    ends = lengths.cumsum().tolist()
    return [ids[first:last] for first, last in pairwise([0, *ends])]


def cut(text: str, positions: Sequence[int]) -> list[str]:
    """The text in pieces, cut before each of the given positions (increasing)."""
    return [text[first:last] for first, last in zip([0, *positions], [*positions, len(text)], strict=True)]


def read_file(path: Path, what: str) -> bytes:
    """A tokenizer's file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot read the {what} {path}: {error.strerror or error}") from error


def digest_of(*parts: str | bytes) -> str:
    """SHA-256 over parts that cannot run into each other."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
