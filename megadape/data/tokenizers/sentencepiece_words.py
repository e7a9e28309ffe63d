"""SentencePiece BPE by words, each of which is encoded once.

Where no piece of a model holds two neighbouring characters, no merge joins them, and what stands on both sides of the
place between them does not depend on each other. The vocabularies of SentencePiece have many such places: before white
space, and mostly between letters and all else. The ids of the words between them are remembered, and the new words of
a batch are encoded together. A unigram model is not run like this: it adds up rounded numbers along the whole text, and
its ids may depend on them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from megadape.data.tokenizers.base import Ids, Lengths, apart, cut

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SPACE = "▁"
"""How a space is written in a piece; a text may hold the same character (U+2581)."""

_WORDS = (
    r" *+(?:[^\0-@\[-`{-\x7f]++|[\0-\x08\x0b-\x1f!-@\[-`{-\x7f]++)| ++|[\n\t]",
    r" *+(?:[^\W\d_]++|(?:[^\w \n\t]++|[\d_]++)++)| ++|[\n\t]",
    r" *+[^ \n\t]++| ++|[\n\t]",
    r" *+[^ \n]++| ++|\n",
)
"""What words are, the shortest first: white space, and behind it ASCII without letters or all else; all but letters or
letters; anything.

Whether two neighbouring characters belong to different words can be seen from the two alone.
"""

_MOST_WORDS = 1 << 17
_MOST_IDS = 1 << 20
"""What is remembered before everything is forgotten: some 25 MB."""

LONG_TEXT = 1 << 20
"""Characters, about, that are taken apart into words at once."""

_BEFORE_SPACE = re.compile("[^ ](?= )")


def word_expression(model: SentencePieceProcessor) -> re.Pattern[str] | None:
    """The shortest words that no piece of a model goes beyond; None when there are none."""
    special = (model.is_control, model.is_unknown, model.is_byte)
    numbers = (i for i in range(model.get_piece_size()) if not any(test(i) for test in special))
    pieces = [model.id_to_piece(i).replace(SPACE, " ") for i in numbers]
    # new words are encoded with newlines between them
    if len(model.encode("\n")) == 1:
        for expression in map(re.compile, _WORDS):
            if all(map(expression.fullmatch, pieces)):
                return expression
    return None


class _Places(dict[str, int]):
    """Word -> place; a word that is asked for and not there gets the next."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        place = self[word] = len(self)
        self.new.append(word)
        return place


class SentencePieceWords:
    """Encodes texts without U+2581 by their words.

    Args:
        model: a BPE model that keeps texts as they are and has byte pieces.
        expression: its words.
    """

    def __init__(self, model: SentencePieceProcessor, expression: re.Pattern[str]) -> None:
        self._model = model
        self._expression = expression
        (self._newline,) = model.encode("\n")
        self._places = _Places()
        self._ids: Ids = np.empty(0, np.int32)
        self._starts: Lengths = np.empty(0, np.int64)
        self._ends: Lengths = np.empty(0, np.int64)
        self._forget()

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text."""
        found: list[Ids] = []
        held: list[list[str]] = []
        size = 0
        for text in texts:
            held.append(self._expression.findall(text))
            size += len(text)
            if size >= LONG_TEXT:
                found += self._encode(held)
                held, size = [], 0
        return found + self._encode(held)

    def pieces(self, text: str) -> list[str]:
        """A text in pieces that can be encoded one after the other, of about ``LONG_TEXT`` characters."""
        positions = []
        for start in range(LONG_TEXT, len(text), LONG_TEXT):
            if match := _BEFORE_SPACE.search(text, start, start + LONG_TEXT):
                positions.append(match.end())
        return cut(text, positions)

    def _encode(self, texts: list[list[str]]) -> list[Ids]:
        """The ids of texts that are given as words."""
        counts = np.fromiter(map(len, texts), np.int64, len(texts))
        places = np.fromiter(map(self._places.__getitem__, chain.from_iterable(texts)), np.int64, counts.sum())
        if self._places.new:
            self._learn(self._places.new)
        lengths = self._ends[places] - self._starts[places]
        ends = lengths.cumsum()
        shifts = np.repeat(self._starts[places] - (ends - lengths), lengths)
        ids = self._ids[np.arange(len(shifts)) + shifts]
        if len(self._places) > _MOST_WORDS or len(self._ids) > _MOST_IDS:
            self._forget()
        return apart(ids, np.diff(np.concatenate([[0], ends])[counts.cumsum()], prepend=0))

    def _learn(self, words: list[str]) -> None:
        """The ids of words that have their places already."""
        ids = self._model.encode("\n".join(words), return_type="numpy")
        breaks = np.flatnonzero(ids == self._newline)
        assert len(breaks) == len(words) - 1
        shift = len(self._ids)
        self._ids = np.concatenate([self._ids, ids])
        self._starts = np.concatenate([self._starts, [shift], breaks + shift + 1])
        self._ends = np.concatenate([self._ends, breaks + shift, [len(self._ids)]])
        words.clear()

    def _forget(self) -> None:
        """Everything but the newline, which no new word can be then."""
        self._places = _Places()
        self._places["\n"] = 0
        self._ids = np.array([self._newline], np.int32)
        self._starts = np.array([0], np.int64)
        self._ends = np.array([1], np.int64)
