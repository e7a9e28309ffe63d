"""The tokenizer in an exported folder: AutoTokenizer must give the very ids that the run was trained on.

Byte-level vocabularies and tokenizer.json files become a tokenizer.json; a SentencePiece model keeps its own file, read
by a small class beside it, since the library alone gives other ids to control tokens' names and to U+2581.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megadape.data.tokenizers.base import Tokenizer
from megadape.data.tokenizers.byte import ByteTokenizer
from megadape.data.tokenizers.byte_level import BYTE_OF
from megadape.data.tokenizers.huggingface import HuggingFaceTokenizer
from megadape.data.tokenizers.sentencepiece import SentencePieceTokenizer
from megadape.errors import ExportError, TokenizerError
from megadape.export.record import Record
from megadape.export.source import Source, sample_text

END = "<|endoftext|>"
"""How the end of a document is written where it has no name of its own."""

CODE = "tokenization_megadape.py"
UNLIMITED = 1 << 30
"""Tokens a text may have, as the tokenizer sees it."""

TRICKY = (
    "",
    " ",
    "  a \n\n\tb\x00 ",
    f"{END}</s><s><unk><pad>{END} x{END}",
    "▁▁a▁ ▁",
    "a\u0301\u00e9\ufb01\u212b \u200b\u200d\ufeff\u2028\x85\x1c",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0010ffff",
    "'s 're I'll  3.14\r\n\r\n   \t x=1;\x7f<0x0A><|im_start|>",
)


def write_tokenizer(source: Source, record: Record, folder: Path) -> None:
    """Write the tokenizer's files into a folder: its own ones, and those that transformers reads."""
    originals = source.tokenizer_record.files
    for field, name in record.tokenizer.files.items():
        shutil.copyfile(source.prefix.parent / originals[field], folder / name)
    config = _WRITERS[record.tokenizer.kind](source.tokenizer, record, folder)
    text = record.tokenizer.options.get("special_tokens_in_text", "text") == "text"
    shared = {
        "clean_up_tokenization_spaces": False,
        "model_max_length": UNLIMITED,
        "padding_side": "left",
        "split_special_tokens": text,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**shared, **config}, indent=2) + "\n")


def _write_json(folder: Path, content: dict[str, Any], end: str) -> dict[str, Any]:
    """A tokenizer.json without what adds tokens or cuts texts, and what tokenizer_config.json says of it."""
    spec = {**content, "truncation": None, "padding": None, "post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(spec, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": end}


def _write_bytes(tokenizer: Tokenizer, record: Record, folder: Path) -> dict[str, Any]:
    """Ids 0 .. 255 are bytes: a vocabulary of GPT-2's stand-ins for them, without merges."""
    assert isinstance(tokenizer, ByteTokenizer)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    vocabulary = dict(sorted(BYTE_OF.items(), key=lambda item: item[1]))
    content = {
        "version": "1.0",
        "added_tokens": [{"id": tokenizer.eod, "content": END, "special": True, **flags}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    return _write_json(folder, content, END)


def _write_library(tokenizer: Tokenizer, record: Record, folder: Path) -> dict[str, Any]:
    """What the tokenizers library runs here it runs there."""
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    return _write_json(folder, json.loads(tokenizer.to_json()), tokenizer.token(tokenizer.eod))


def _write_sentencepiece(tokenizer: Tokenizer, record: Record, folder: Path) -> dict[str, Any]:
    assert isinstance(tokenizer, SentencePieceTokenizer)
    shutil.copyfile(Path(__file__).parent / "hf" / CODE, folder / CODE)
    return {
        "tokenizer_class": "MegadapeTokenizer",
        "auto_map": {"AutoTokenizer": [f"{CODE.removesuffix('.py')}.MegadapeTokenizer", None]},
        "eos_token": tokenizer.token(tokenizer.eod),
        "special_tokens_in_text": record.tokenizer.options.get("special_tokens_in_text", "text"),
    }


_WRITERS: dict[str, Callable[[Tokenizer, Record, Path], dict[str, Any]]] = {
    "byte": _write_bytes,
    "gpt2": _write_library,
    "huggingface": _write_library,
    "sentencepiece": _write_sentencepiece,
}


def load_exported_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers' own class
    """The tokenizer of an exported folder as transformers has it, without running code from there."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if config["tokenizer_class"] == "MegadapeTokenizer":
        from megadape.export.hf.tokenization_megadape import MegadapeTokenizer

        return MegadapeTokenizer.from_pretrained(folder)
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def check_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """``ExportError`` unless a folder's tokenizer gives the same ids to real texts and to tricky ones."""
    theirs = load_exported_tokenizer(folder)
    for text in (sample_text(), *TRICKY, *random_texts()):
        try:
            wanted = tokenizer.encode(text).tolist()
        except TokenizerError:
            continue  # a text that this vocabulary cannot hold
        found = theirs(text)["input_ids"] if text else wanted
        if found != wanted:
            raise ExportError(
                f"the exported tokenizer gives other ids than {tokenizer.name} to the text that begins {text[:40]!r}: "
                "this vocabulary cannot be exported"
            )


def random_texts(count: int = 200) -> Iterator[str]:
    """Short texts of all of Unicode, always the same ones."""
    draw = random.Random(0)
    ranges = ((0x20, 0x7F), (0, 0x20), (0x80, 0x250), (0x300, 0x3100), (0x3100, 0xD800), (0xE000, sys.maxunicode + 1))
    for _ in range(count):
        ends = [draw.choice(ranges) for _ in range(draw.randrange(1, 24))]
        yield "".join(chr(draw.randrange(*end)) for end in ends)
