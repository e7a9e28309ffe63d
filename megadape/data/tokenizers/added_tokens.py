"""Added tokens: strings that are looked for in a text before anything else is done to it, as the tokenizers library
does it.

Of all added tokens, the leftmost and longest match counts, special or not. If special tokens are text like any other,
their matches are passed over. Tokens that are not marked as normalized are looked for in the text itself, the others
in what is left of it, normalised.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from megadape.data.tokenizers.base import NotFastError

if TYPE_CHECKING:
    from tokenizers import AddedToken

Normalize = Callable[[str], str]

_FEW = 16


class AddedTokens:
    """The added tokens of a vocabulary.

    Args:
        tokens: id -> token.
        special_is_text: whether special tokens in a text are text like any other.
        normalize: the normalisation of texts.
    """

    def __init__(self, tokens: dict[int, AddedToken], *, special_is_text: bool, normalize: Normalize) -> None:
        self._normalize = normalize
        self.active = {i: token for i, token in tokens.items() if not (token.special and special_is_text)}
        for token in self.active.values():
            if token.single_word or token.lstrip or token.rstrip:
                raise NotFastError(f"its added token {token.content!r} takes white space or whole words only")
        self._ids = {token.content: i for i, token in self.active.items() if not token.normalized}
        self._normalized_ids = {normalize(token.content): i for i, token in self.active.items() if token.normalized}
        self._raw = Finder(token.content for token in tokens.values() if not token.normalized)
        self._normalized = Finder(normalize(token.content) for token in tokens.values() if token.normalized)

    def split(self, text: str) -> list[str | int]:
        """The text, normalised, and the ids of the tokens in it; no empty texts."""
        if not self.active:
            return [self._normalize(text)]
        return [
            piece
            for part in _split(text, self._raw, self._ids)
            for piece in (
                _split(self._normalize(part), self._normalized, self._normalized_ids)
                if isinstance(part, str)
                else [part]
            )
        ]


class Finder:
    """Looks for any of several strings: the leftmost, and the longest there."""

    def __init__(self, strings: Iterable[str]) -> None:
        found = sorted(set(strings) - {""}, key=len, reverse=True)
        self._expression = re.compile("|".join(map(re.escape, found))) if found else None
        # a plain search is many times faster than that of an expression, and mostly finds nothing
        beginnings = {string[:2] for string in found}
        self._beginnings = beginnings if len(beginnings) <= _FEW else set()

    def matches(self, text: str) -> list[re.Match[str]]:
        """All matches, none over another."""
        if self._expression is None or (
            self._beginnings and not any(beginning in text for beginning in self._beginnings)
        ):
            return []
        return list(self._expression.finditer(text))


def _split(text: str, finder: Finder, ids: dict[str, int]) -> list[str | int]:
    parts: list[str | int] = []
    start = 0
    for match in finder.matches(text):
        if match[0] in ids:
            parts += [text[start : match.start()], ids[match[0]]]
            start = match.end()
    return [part for part in [*parts, text[start:]] if part != ""]
