"""Proof, while a corpus is encoded, that the fast way gives the ids of the reference.

The first texts of every process are encoded both ways, and so is every text that holds the string of an added token,
where most of the rules are. A difference is an error: a dataset half of which follows other rules is worth nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from megadape.data.tokenizers.added_tokens import Finder
from megadape.data.tokenizers.base import Ids, Lengths
from megadape.errors import TokenizerError

TEXTS = 64
"""Texts of a process that are checked in any case."""

CHARACTERS = 250_000
"""Characters of them, all together: what takes the fast way as long as some five times as many."""

_WINDOW = 1_000_000
"""Characters of the longest piece of a text that is encoded both ways at once."""

_CONTEXT = 50_000
"""Characters before an added token in a text that is too long to be checked as a whole."""

Encode = Callable[[str], Ids]


class SelfCheck:
    """Compares two ways of encoding; an error for the first difference.

    Args:
        name: of the tokenizer.
        fast: one text's ids, the fast way.
        reference: the ids that they must be.
        strings: texts that hold one of these are always checked; white space alone does not count.
    """

    def __init__(self, name: str, fast: Encode, reference: Encode, strings: Sequence[str]) -> None:
        self._name = name
        self._fast = fast
        self._reference = reference
        self._finder = Finder(string for string in strings if not string.isspace())
        self._texts, self._characters = TEXTS, CHARACTERS

    def check(self, texts: Sequence[str], ids: Ids, lengths: Lengths) -> None:
        """Compare texts with the ids that the fast way gave them; ``TokenizerError`` where they are wrong."""
        ends = lengths.cumsum().tolist()
        for text, (first, last) in zip(texts, pairwise([0, *ends]), strict=True):
            for piece in self._due(text):
                found = ids[first:last] if len(piece) == len(text) else self._fast(piece)
                self._compare(piece, found)

    def _due(self, text: str) -> Iterator[str]:
        """The pieces of a text that are to be checked."""
        if self._texts and self._characters:
            piece = text[: self._characters]
            self._texts -= 1
            self._characters -= len(piece)
            yield piece
            if len(piece) == len(text):
                return
        yield from self._around_added_tokens(text)

    def _around_added_tokens(self, text: str) -> Iterator[str]:
        matches = self._finder.matches(text)
        if matches and len(text) <= _WINDOW:
            yield text
            return
        checked = 0
        for match in matches:
            if match.end() > checked:
                start = max(match.start() - _CONTEXT, 0)
                checked = start + _WINDOW
                yield text[start:checked]

    def _compare(self, text: str, found: Ids) -> None:
        if not np.array_equal(found, self._reference(text)):
            raise TokenizerError(
                f"{self._name}: tiktoken and the tokenizers library give different ids to the text that begins "
                f"{text[:60]!r}: choose the library for this tokenizer (--fast-tokenizer never)"
            )
