"""Small datasets, and what is in them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from megadape.data import IndexedDataset, IndexedDatasetWriter, preprocess_files

Documents = list[list[list[int]]]

TEXTS_A = ["one", "", "two words", "drei Wörter hier", "x" * 100]
TEXTS_B = ["日本語", "", "", "last"]


def write_pair(prefix: Path, documents: Documents, dtype: str = "u2") -> Path:
    """A dataset without a manifest, as other programs make them."""
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add_document(document)
    return prefix


def preprocess_texts(prefix: Path, texts: list[str], *, append_eod: bool = True, **options: object) -> Path:
    """A dataset of texts, by default in bytes."""
    corpus = prefix.with_name(f"{prefix.name}.jsonl")
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    preprocess_files([corpus], prefix, append_eod=append_eod, **options)  # type: ignore[arg-type]
    return prefix


def documents_of(prefix: Path) -> Documents:
    """All documents: their sequences, token by token."""
    dataset = IndexedDataset(prefix)
    return [[one.tolist() for one in dataset[a:b]] for a, b in pairwise(dataset.document_index.tolist())]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def takes_less_than(limit: int, action: Callable[[], object]) -> bool:
    """Whether an action holds fewer bytes at once; tried three times, since other threads' memory counts too."""
    for _ in range(3):
        tracemalloc.start()
        try:
            action()
            if tracemalloc.get_traced_memory()[1] < limit:
                return True
        finally:
            tracemalloc.stop()
    return False


def word_tokenizer(path: Path) -> dict[str, object]:
    """A tokenizer of three words and an end token, in a file; as options of ``preprocess_texts``."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({"a": 0, "b": 1, "[UNK]": 2, "<|endoftext|>": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.save(str(path))
    return {"tokenizer": "huggingface", "tokenizer_options": {"model": path}}
