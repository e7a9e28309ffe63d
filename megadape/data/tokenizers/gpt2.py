"""GPT-2's byte-pair encoding from local ``vocab.json`` and ``merges.txt``: a ``tokenizer.json`` in two files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

from megadape.data.tokenizers.base import FastPath, SpecialTokens, TokenizerSettingsBase, read_file
from megadape.data.tokenizers.byte_level import BYTE_OF, to_bytes
from megadape.data.tokenizers.huggingface import HuggingFaceTokenizer
from megadape.errors import TokenizerError


class Gpt2Settings(TokenizerSettingsBase):
    """A byte-level BPE vocabulary in GPT-2's two files."""

    COPIES: ClassVar[dict[str, str]] = {"vocab": "vocab.json", "merges": "merges.txt"}
    IMMATERIAL: ClassVar[frozenset[str]] = frozenset({"fast"})

    kind: Literal["gpt2"] = "gpt2"

    vocab: Path
    """vocab.json: token -> id."""

    merges: Path
    """merges.txt: one pair a line, the earliest first."""

    eod_token: str = "<|endoftext|>"
    """Token that ends a document."""

    special_tokens_in_text: SpecialTokens = "text"
    """What the name of the end of a document in a text becomes."""

    fast: FastPath = "auto"
    """Whether tiktoken runs the vocabulary, with the same ids: auto, if it can; always, or an error; never."""

    def build(self) -> HuggingFaceTokenizer:
        """The tokenizer."""
        vocab, merges = read_file(self.vocab, "vocabulary"), read_file(self.merges, "merges")
        ids = _read_vocabulary(vocab, self.vocab)
        if self.eod_token not in ids:
            raise TokenizerError(
                f"{self.vocab} has no {self.eod_token!r}: name the token that ends a document (eod_token)"
            )
        pairs = _read_merges(merges, self.merges)
        _check(ids, pairs, self.vocab)
        spec = _as_tokenizer_json(ids, pairs, self.eod_token)
        origin = ("gpt2", vocab, merges)
        return HuggingFaceTokenizer(
            spec, self.vocab, origin, self.eod_token, special=self.special_tokens_in_text, fast=self.fast
        )


def _as_tokenizer_json(ids: dict[str, int], pairs: list[tuple[str, str]], eod_token: str) -> dict[str, Any]:
    """What a ``tokenizer.json`` of the same vocabulary holds."""
    end = {"id": ids[eod_token], "content": eod_token, "special": True, "normalized": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{**end, **flags}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": ids, "merges": [list(pair) for pair in pairs]},
    }


def _read_vocabulary(content: bytes, path: Path) -> dict[str, int]:
    try:
        ids = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not a vocab.json: it is not valid JSON ({error})") from error
    if not isinstance(ids, dict) or not all(type(i) is int and i >= 0 for i in ids.values()):
        raise TokenizerError(f"{path} is not a vocab.json: it must map tokens to ids")
    if len(set(ids.values())) != len(ids):
        raise TokenizerError(f"{path} gives the same id to two tokens: the file is damaged")
    return ids


def _read_merges(content: bytes, path: Path) -> list[tuple[str, str]]:
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not a merges.txt: it is not valid UTF-8") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line or line.startswith("#version"):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(to_bytes(part) for part in parts):
            raise TokenizerError(f"{path}, line {number}: {line[:40]!r} is not a pair of byte-level tokens")
        pairs.append((parts[0], parts[1]))
    return pairs


def _check(ids: dict[str, int], pairs: list[tuple[str, str]], path: Path) -> None:
    """``TokenizerError`` for a vocabulary that lacks a byte, or a token of the merges."""
    for token in [*BYTE_OF, *(part for pair in pairs for part in (*pair, "".join(pair)))]:
        if token not in ids:
            raise TokenizerError(
                f"{path} lacks the token {to_bytes(token)!r}, which its merges make: "
                "the two files do not belong together"
            )
