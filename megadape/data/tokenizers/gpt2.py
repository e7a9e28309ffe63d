"""GPT-2's byte-pair encoding from local ``vocab.json`` and ``merges.txt``.

tiktoken runs it: the ids of the reference, 3-6 times faster.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from megadape.data.tokenizers.base import (
    Ids,
    SpecialTokens,
    Tokenizer,
    TokenizerSettingsBase,
    cut,
    digest_of,
    read_file,
)
from megadape.data.tokenizers.byte_level import to_bytes
from megadape.errors import TokenizerError

_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
"""GPT-2's words (Radford et al., 2019), with possessive quantifiers where nothing can be given back."""

_LONG = 1000
_WHITESPACE_RUN = re.compile(rf"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{{{_LONG},}}+")
_SAFE = 100_000
"""Texts shorter than this cannot exhaust the backtracking stack of tiktoken's regular expressions."""

_NEVER = 1 << 62


class Gpt2Settings(TokenizerSettingsBase):
    """A byte-level BPE vocabulary in GPT-2's two files."""

    COPIES: ClassVar[dict[str, str]] = {"vocab": "vocab.json", "merges": "merges.txt"}

    kind: Literal["gpt2"] = "gpt2"

    vocab: Path
    """vocab.json: token -> id."""

    merges: Path
    """merges.txt: one pair a line, the earliest first."""

    eod_token: str = "<|endoftext|>"
    """Token that ends a document."""

    special_tokens_in_text: SpecialTokens = "text"
    """What the name of the end of a document in a text becomes."""

    def build(self) -> Gpt2Tokenizer:
        """The tokenizer."""
        return Gpt2Tokenizer(self)


class Gpt2Tokenizer(Tokenizer):
    """GPT-2's byte-pair encoding.

    tiktoken merges by the rank of the *merged* token, the reference by the rank of the pair. The two agree when every
    token's bytes lead to the pair that makes it, which holds for trained vocabularies and is checked here.
    """

    def __init__(self, settings: Gpt2Settings) -> None:
        from tiktoken import Encoding

        vocab, merges = read_file(settings.vocab, "vocabulary"), read_file(settings.merges, "merges")
        ids = _read_vocabulary(vocab, settings.vocab)
        if settings.eod_token not in ids:
            raise TokenizerError(
                f"{settings.vocab} has no {settings.eod_token!r}: name the token that ends a document (eod_token)"
            )
        eod = ids[settings.eod_token]
        tokens = _ranked_tokens(_read_merges(merges, settings.merges), settings.merges)
        self._id_of_rank = _ids_of(tokens, ids, settings.vocab)
        self._bytes: dict[int, bytes] = dict(zip(self._id_of_rank.tolist(), tokens, strict=True))
        special = settings.special_tokens_in_text
        ranks = {token: rank for rank, token in enumerate(tokens)}
        self._eod_rank = len(ranks)
        self._encoding = Encoding(
            "gpt2", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={settings.eod_token: self._eod_rank}
        )
        self._allowed = {settings.eod_token} if special == "special" else set()
        self._id_of_rank = np.append(self._id_of_rank, np.int32(eod))
        digest = digest_of("gpt2", vocab, merges, str(eod), special)
        super().__init__(f"gpt2 ({settings.vocab.name})", max(ids.values()) + 1, eod, digest)

    def token_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of each token; 0 for the end of a document and for ids that no text gets."""
        sizes = np.zeros(self.vocab_size, np.int64)
        for i, content in self._bytes.items():
            sizes[i] = len(content)
        return sizes

    def _encode(self, text: str) -> Ids:
        parts = [text] if len(text) < _SAFE else _cut_after_whitespace(text)
        encode = self._encoding.encode_to_numpy
        ranks = [encode(part, allowed_special=self._allowed, disallowed_special=()) for part in parts]
        return self._id_of_rank[np.concatenate(ranks)]

    def _decode(self, ids: list[int]) -> str:
        return b"".join(self._bytes.get(i, b"") for i in ids).decode(errors="replace")


def _cut_after_whitespace(text: str) -> list[str]:
    """The text cut before the last character of long whitespace runs, where a word begins in any case."""
    return cut(text, [match.end() - 1 for match in _WHITESPACE_RUN.finditer(text) if match.end() < len(text)])


def _read_vocabulary(content: bytes, path: Path) -> dict[str, int]:
    try:
        ids = json.loads(content)
    except ValueError as error:
        raise TokenizerError(f"{path} is not a vocab.json: it is not valid JSON ({error})") from error
    if not isinstance(ids, dict) or not all(type(i) is int and i >= 0 for i in ids.values()):
        raise TokenizerError(f"{path} is not a vocab.json: it must map tokens to ids")
    if len(set(ids.values())) != len(ids):
        raise TokenizerError(f"{path} gives the same id to two tokens: the file is damaged")
    return ids


def _read_merges(content: bytes, path: Path) -> list[tuple[bytes, bytes]]:
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not a merges.txt: it is not valid UTF-8") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line or line.startswith("#version"):
            continue
        parts = [to_bytes(part) for part in line.split(" ")]
        if len(parts) != 2 or not parts[0] or not parts[1]:
            raise TokenizerError(f"{path}, line {number}: {line[:40]!r} is not a pair of byte-level tokens")
        pairs.append((parts[0], parts[1]))
    return pairs


def _ranked_tokens(pairs: list[tuple[bytes, bytes]], path: Path) -> list[bytes]:
    """The 256 bytes and then the merged tokens, by rank; an error for merges that ranks of tokens cannot express."""
    tokens = [bytes([byte]) for byte in range(256)] + [first + second for first, second in pairs]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for rank, pair in enumerate(pairs, 256):
        if ranks[tokens[rank]] != rank or _last_merge(tokens[rank], ranks) != pair:
            raise TokenizerError(
                f"{path}: the merge {pair[0]!r} + {pair[1]!r} does not follow from the merges before it, so its "
                "ids would differ from the reference; use a tokenizer.json (kind: huggingface) for this vocabulary"
            )
    return tokens


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, ...]:
    """The parts that merging the bytes of a token by rank leads to, just before they become the token."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(first + second, _NEVER) for first, second in pairwise(parts)]
        best = min(pairs)
        if best >= ranks[token]:
            break
        at = pairs.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return tuple(parts)


def _ids_of(tokens: list[bytes], ids: dict[str, int], path: Path) -> npt.NDArray[np.int32]:
    """[ranks], the vocabulary's id of each ranked token."""
    known = {content: i for token, i in ids.items() if (content := to_bytes(token)) is not None}
    for token in tokens:
        if token not in known:
            raise TokenizerError(
                f"{path} lacks the token {token!r}, which its merges make: the two files do not belong together"
            )
    return np.array([known[token] for token in tokens], np.int32)
