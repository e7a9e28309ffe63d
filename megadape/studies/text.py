"""The demo's text: the running Python's own standard library, or what the user brings."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from megadape.data import CorpusReader
from megadape.data.files import write_whole
from megadape.errors import DataError

SUFFIXES = (".py", ".md", ".rst", ".tex")
"""Read as plain text besides .txt."""

FEW_DOCUMENTS = 40
"""With fewer, documents are cut up, so that some can be kept from training."""

PIECES = 200

APART = {"site-packages", "dist-packages", "test", "tests"}
"""Folders that are not the library itself, or not there on every machine."""


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
        raise DataError(f"--text {text} does not exist: give a file or a folder of text")
    suffixes = (*SUFFIXES, text.suffix) if text.is_file() and text.suffix else SUFFIXES
    documents = [document.text for document in CorpusReader([text], text_suffixes=suffixes, skip_undecodable=True)]
    size = sum(map(len, documents))
    if not size:
        raise DataError(f"--text {text} holds no text")
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
