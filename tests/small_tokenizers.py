"""A tokenizer of each way to cut text, small and trained on real text, for tests of several rooms."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from megadape.data import Tokenizer, tokenizer_settings
from megadape.data.tokenizers.train import TrainTokenizerSettings, train_tokenizer

CORPUS = Path(sysconfig.get_paths()["stdlib"]) / "argparse.py"


@cache
def tokenizer(name: str) -> Tokenizer:
    """byte, unigram (sentencepiece) or bpe (tokenizer.json)."""
    if name == "byte":
        return tokenizer_settings("byte").build()
    kind = {"unigram": "sentencepiece", "bpe": "huggingface"}[name]
    with TemporaryDirectory() as folder:
        path = Path(folder) / {"unigram": "text.model", "bpe": "tokenizer.json"}[name]
        options: dict[str, Any] = {"model_type": "unigram"} if name == "unigram" else {"kind": "bpe"}
        inputs: dict[str, Any] = {"inputs": (CORPUS,), "text_suffixes": (".py",)}
        train_tokenizer(TrainTokenizerSettings(output=path, vocab_size=400, **inputs, **options))
        return tokenizer_settings(kind, model=path).build()
