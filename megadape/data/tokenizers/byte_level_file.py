"""Which ``tokenizer.json`` files are byte-level BPE of the kind that tiktoken can run, and what it needs of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from megadape.data.tokenizers.base import NotFastError
from megadape.data.tokenizers.byte_level import to_bytes
from megadape.data.tokenizers.byte_pairs import Pair, rank_tokens
from megadape.data.tokenizers.word_patterns import GPT2

_SAME = [("Isolated", False), ("Removed", True)]
"""Behaviours of a Split that make a word of every match, given that the pattern matches everything."""


@dataclass(frozen=True)
class ByteLevelFile:
    """A byte-level vocabulary, its merges and its words."""

    tokens: list[bytes]
    """Tokens by rank."""
    ids: list[int]
    """The file's id of each."""
    pattern: str
    """The words."""
    composes: bool
    """Whether texts are brought to Unicode's form NFC first."""
    unmerged: list[bytes]
    """Tokens that no merge makes and that words alone can become (``ignore_merges``)."""


def read_byte_level(spec: dict[str, Any]) -> ByteLevelFile:
    """What tiktoken needs of a ``tokenizer.json``; ``NotFastError`` with the reason when it cannot run it."""
    model = _model(spec)
    composes = _composes(spec.get("normalizer"))
    pattern = _pattern(spec.get("pre_tokenizer"))
    whole_words = bool(model.get("ignore_merges", False))
    tokens = rank_tokens(_pairs(model["merges"]), whole_words=whole_words)
    known = {content: i for token, i in model["vocab"].items() if (content := to_bytes(token)) is not None}
    for token in tokens:
        if token not in known:
            raise NotFastError(f"its vocabulary has no token for {token!r}")
    unmerged = list(known.keys() - set(tokens)) if whole_words else []
    return ByteLevelFile(tokens, [known[token] for token in tokens], pattern, composes, unmerged)


def _model(spec: dict[str, Any]) -> dict[str, Any]:
    model: dict[str, Any] = spec["model"]
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise NotFastError(f"its model is {model.get('type', 'not BPE')}, not byte-level BPE")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise NotFastError(f"its model has {key} {model[key]!r}")
    return model


def _composes(normalizer: dict[str, Any] | None) -> bool:
    if normalizer is None:
        return False
    if normalizer["type"] == "Sequence":
        return True in [_composes(part) for part in normalizer["normalizers"]]
    if normalizer["type"] != "NFC":
        raise NotFastError(f"its normalizer is {normalizer['type']}")
    return True


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str:
    """The pattern of words: that of a Split before ByteLevel, or ByteLevel's own."""
    steps = _steps(pre_tokenizer)
    names = [step["type"] for step in steps]
    if names not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise NotFastError(f"its pre-tokenizer is {' + '.join(names) or 'missing'}, not ByteLevel or Split + ByteLevel")
    last = steps[-1]
    if last.get("add_prefix_space", True):
        raise NotFastError("its pre-tokenizer adds a space before every text (add_prefix_space)")
    own = last.get("use_regex", True)
    if len(steps) == 1:
        if not own:
            raise NotFastError("its pre-tokenizer does not split words")
        return GPT2
    split = steps[0]
    if own or (split["behavior"], split["invert"]) not in _SAME or "Regex" not in split["pattern"]:
        raise NotFastError("its pre-tokenizer splits words twice, or not at a pattern")
    return str(split["pattern"]["Regex"])


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _steps(part)]
    return [pre_tokenizer]


def _pairs(merges: list[str | list[str]]) -> list[Pair]:
    pairs = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        contents = [to_bytes(part) for part in parts]
        if len(contents) != 2 or not contents[0] or not contents[1]:
            raise NotFastError(f"its merge {merge!r} is not a pair of byte-level tokens")
        pairs.append((contents[0], contents[1]))
    return pairs
