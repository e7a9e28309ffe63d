"""Merges of byte pairs as ranks of tokens: what tiktoken wants instead of a list of merges.

The reference merges, of all neighbouring parts, the pair that stands first in the list of merges. tiktoken merges the
pair whose *merged token* has the lowest rank, whatever pair that is. In both, what happens inside a token's bytes does
not depend on the text around them as long as no merge crosses their ends, so the two parts of which a token is made are
always the same: those that its bytes alone lead to. If that pair is in the list for every token, and in the order of
the ranks, the two agree on every text. This holds for trained vocabularies, and is checked here.
"""

from __future__ import annotations

from collections.abc import Sequence

from megadape.data.tokenizers.base import NotFastError

Pair = tuple[bytes, bytes]

_NEVER = 1 << 62


def rank_tokens(pairs: Sequence[Pair], *, whole_words: bool = False) -> list[bytes]:
    """The 256 bytes and then the merged tokens, by rank; ``NotFastError`` for merges that ranks cannot express.

    Args:
        pairs: the merges, the earliest first; several may make the same token.
        whole_words: a word that is a token is never merged (``ignore_merges``), so that a token need not be reachable.
    """
    places = {pair: place for place, pair in enumerate(pairs)}
    tokens = list(dict.fromkeys([*(bytes([byte]) for byte in range(256)), *(a + b for a, b in pairs)]))
    ranks = {token: rank for rank, token in enumerate(tokens)}
    last = -1
    for token in tokens[256:]:
        pair = last_merge(token, ranks)
        if pair is None and whole_words:
            continue
        place = -1 if pair is None else places.get(pair, -1)
        if place <= last or len(places) < len(pairs):
            raise NotFastError(_explained(token, pairs))
        last = place
    return tokens


def last_merge(token: bytes, ranks: dict[bytes, int]) -> Pair | None:
    """The two parts that merging the bytes of a token by rank leads to; None when it ends with more."""
    parts = [token[i : i + 1] for i in range(len(token))]
    merged = [ranks.get(token[i : i + 2], _NEVER) for i in range(len(token) - 1)]
    while len(parts) > 2:
        best = min(merged)
        if best == _NEVER:
            return None
        at = merged.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del merged[at]
        if at:
            merged[at - 1] = ranks.get(parts[at - 1] + parts[at], _NEVER)
        if at < len(merged):
            merged[at] = ranks.get(parts[at] + parts[at + 1], _NEVER)
    return parts[0], parts[1]


def _explained(token: bytes, pairs: Sequence[Pair]) -> str:
    first, second = next((a, b) for a, b in pairs if a + b == token)
    return f"the merge {first!r} + {second!r} does not follow from the merges before it"
