"""Byte-level vocabularies on tiktoken: the ids of the tokenizers library, several times faster.

All texts of a batch go through tiktoken in one string. What is not text in it (an added token, the end of a text, a
place where tiktoken must take a new breath) is a mark: a special token of tiktoken's, which cuts the text as exactly as
a call of its own would.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from megadape.data.tokenizers.added_tokens import AddedTokens
from megadape.data.tokenizers.base import Ids, Lengths, NotFastError
from megadape.data.tokenizers.byte_level_file import ByteLevelFile
from megadape.data.tokenizers.word_patterns import WordPattern, word_pattern

if TYPE_CHECKING:
    from tiktoken import Encoding
    from tokenizers import Tokenizer as Library

MARK = "\0\1<mark "
"""What every mark begins with: a text that holds this cannot be encoded here."""

_END, _CUT = f"{MARK}end>", f"{MARK}cut>"

_BATCH = 1 << 20
"""Characters, about, that go through tiktoken at once."""

_EVERY_KIND = "1aAǅʰ中\u0301\u0903\u20dd²Ⅷ_-([)]«»!$+^© \t\n\r\u2028\u2029\x85\0\x1c\u200b\ue000\U0010ffff"
"""Characters of every general category, and white space of every kind."""

_COMPOSED = re.compile(
    "[\0-\u02ff\u0400-\u0482\u048a-\u052f\u05d0-\u05ea\u0620-\u064a\u2010-\u2027\u2030-\u205e\u20a0-\u20bf"
    "\u2190-\u21cc\u2500-\u25ff\u3001-\u3029\u3041-\u3096\u309b-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
    "\uff01-\uffe6\U0001f300-\U0001f64f]*+"
)
"""Characters that NFC leaves as they are, whatever stands beside them."""


class FastByteLevel:
    """tiktoken with the vocabulary, the words and the added tokens of a ``tokenizer.json``.

    Args:
        file: the vocabulary and the words.
        library: the same file in the tokenizers library.
        special_is_text: whether special tokens in a text are text like any other.

    Raises ``NotFastError`` when tiktoken would give other ids.
    """

    def __init__(self, file: ByteLevelFile, library: Library, *, special_is_text: bool) -> None:
        self._library = library
        self._composes = file.composes
        self._words = word_pattern(file.pattern)
        tokens = library.get_added_tokens_decoder()
        self._added = AddedTokens(tokens, special_is_text=special_is_text, normalize=self.normalize)
        self._encoding = _encoding(file, self._words, self._added.active)
        self._marks = self._encoding.special_tokens_set
        # the mark of an end follows these, and then that of a cut
        self._text_ranks = len(file.tokens) + len(self._added.active)
        self._id_of_rank = np.array([*file.ids, *self._added.active], np.int32)
        _check_words(self._encoding, file, library)

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Lengths]:
        """The ids of texts without ``MARK``, one after the other, and how many each has."""
        ids = [np.empty(0, np.int32)]
        ends = [np.zeros(1, np.int64)]
        size = 0
        for block in _blocks(part for text in texts for part in self._parts(text)):
            ranks = self._encoding.encode_to_numpy(block, allowed_special=self._marks, disallowed_special=())
            marks = np.flatnonzero(ranks >= self._text_ranks)
            ids.append(self._id_of_rank[np.delete(ranks, marks)])
            before = marks - np.arange(len(marks))
            ends.append(size + before[ranks[marks] == self._text_ranks])
            size += len(ids[-1])
        bounds = np.concatenate(ends)
        return np.concatenate(ids), bounds[1:] - bounds[:-1]

    def normalize(self, text: str) -> str:
        """The text in the form in which it is split into words."""
        if not self._composes or text.isascii() or _COMPOSED.fullmatch(text):
            return text
        return str(self._library.normalizer.normalize_str(text))

    def _parts(self, text: str) -> Iterator[str]:
        """The text in pieces, each with a mark at its end."""
        open_part = ""
        for part in self._added.split(text):
            if isinstance(part, int):
                yield open_part + _mark(part)
                open_part = ""
                continue
            *closed, open_part = self._words.pieces(part)
            for piece in closed:
                yield piece + _CUT
        yield open_part + _END


def _mark(token: int) -> str:
    return f"{MARK}{token}>"


def _blocks(parts: Iterable[str]) -> Iterator[str]:
    """The parts, joined to strings of about ``_BATCH`` characters."""
    held: list[str] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= _BATCH:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def _encoding(file: ByteLevelFile, words: WordPattern, active: Iterable[int]) -> Encoding:
    from tiktoken import Encoding

    ranks = {token: rank for rank, token in enumerate(file.tokens)}
    marks = {mark: len(ranks) + number for number, mark in enumerate([*map(_mark, active), _END, _CUT])}
    return Encoding("byte-level", pat_str=words.expression, mergeable_ranks=ranks, special_tokens=marks)


def _check_words(encoding: Encoding, file: ByteLevelFile, library: Library) -> None:
    """``NotFastError`` for words that leave out characters, and for words that are tokens without any merge."""
    for character in _EVERY_KIND:
        if encoding.decode_bytes(encoding.encode_ordinary(character)) != character.encode():
            raise NotFastError(f"its words leave out characters such as {character!r}")
    for token in file.unmerged:
        words = library.pre_tokenizer.pre_tokenize_str(token.decode(errors="ignore"))
        if len(words) == 1:
            raise NotFastError(f"no merge makes its token {token!r}")
