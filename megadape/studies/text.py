"""Text for the demo and for studies that bring none: the running Python's own standard library, or what the user
brings, preprocessed."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megadape.console import Bars, preprocessing_note
from megadape.data import CorpusReader, DatasetManifest, PreprocessSettings, preprocess, tokenizer_settings
from megadape.data.files import write_whole
from megadape.data.tokenizers.train import TrainTokenizerSettings, train_tokenizer
from megadape.errors import DataError
from megadape.machine import available_cpus

SUFFIXES = (".py", ".md", ".rst", ".tex")
"""Read as plain text besides .txt."""

FEW_DOCUMENTS = 40
"""With fewer, documents are cut up, so that some can be kept from training."""

PIECES = 200

APART = {"site-packages", "dist-packages", "test", "tests"}
"""Folders that are not the library itself, or not there on every machine."""


@dataclass(frozen=True)
class TextRequest:
    """Which text, and how it becomes tokens."""

    source: Path | None
    """A file or a folder; None: the standard library."""
    folder: Path
    """Where the dataset goes: FOLDER/text.bin, .idx, .json."""
    tokenizer: str
    """byte, or sentencepiece, which is trained on the text."""
    vocabulary: int = 512
    """With sentencepiece: pieces."""
    tokenizer_bytes: int = 4_000_000
    """With sentencepiece: text that it is trained on."""
    seed: int = 1234
    """With sentencepiece: of the choice of that text."""


def prepare_text(request: TextRequest, bars: Bars) -> DatasetManifest:
    """Train the tokenizer and preprocess the text, both from scratch each time (seconds)."""
    plain_tokenizer = None if request.tokenizer == "sentencepiece" else tokenizer_settings(request.tokenizer)
    inputs = tuple(demo_inputs(request.source, request.folder))
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{request.folder} cannot be written: {error.strerror or error}") from error
    plain: dict[str, Any] = {"inputs": inputs, "text_suffixes": SUFFIXES, "skip_undecodable": True}
    if plain_tokenizer is None:
        training = TrainTokenizerSettings(
            **plain,
            output=request.folder / "demo.model",
            vocab_size=request.vocabulary,
            max_bytes=request.tokenizer_bytes,
            threads=available_cpus(),
            seed=request.seed,
        )
        tokenizer = train_tokenizer(
            training,
            lambda p: bars.update("tokenizer", p.stage == "done", 1, f"{p.stage}, {p.text_bytes / 1e6:.1f} MB"),
        )
    else:
        tokenizer = plain_tokenizer
    settings = PreprocessSettings(
        **plain,
        prefix=request.folder / "text",
        tokenizer=tokenizer,
        append_eod=True,
        workers=available_cpus(),
        resume=False,
    )
    return preprocess(settings, lambda p: bars.update("preprocessing", p.fraction, 1.0, preprocessing_note(p)))


def standard_library() -> list[Path]:
    """Every source file of the running Python's standard library: always there, real, no download."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in root.rglob("*.py") if not APART.intersection(path.relative_to(root).parts))
    if not files:
        raise DataError(f"this Python has no sources of its standard library in {root}: bring your own with --text")
    return files


def demo_inputs(text: Path | None, folder: Path) -> list[Path]:
    """Files to preprocess; a text of few documents is rewritten as many pieces, cut between lines, into ``folder``."""
    if text is None:
        return standard_library()
    if not text.exists():
        raise DataError(f"the text {text} does not exist: give a file or a folder of text")
    suffixes = (*SUFFIXES, text.suffix) if text.is_file() and text.suffix else SUFFIXES
    documents = [document.text for document in CorpusReader([text], text_suffixes=suffixes, skip_undecodable=True)]
    size = sum(map(len, documents))
    if not size:
        raise DataError(f"the text {text} holds no text")
    if len(documents) >= FEW_DOCUMENTS:
        return [text]
    pieces = folder / "pieces.jsonl"
    lines = [json.dumps({"text": piece}) for document in documents for piece in cut(document, size // PIECES + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(pieces, ("\n".join(lines) + "\n").encode())
    return [pieces]


def cut(text: str, size: int) -> Iterator[str]:
    """Whole lines, together at least ``size`` characters (the last piece: what is left)."""
    held: list[str] = []
    length = 0
    for line in text.splitlines(keepends=True):
        held.append(line)
        length += len(line)
        if length >= size:
            yield "".join(held)
            held, length = [], 0
    if held:
        yield "".join(held)
