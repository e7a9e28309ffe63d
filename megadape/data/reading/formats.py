"""Formats by the endings of names, and how the files of each are cut into pieces.

======================  ===================================================================================
``.txt``                one document a file, or documents between separator lines (also every further text suffix)
``.jsonl``              one JSON object a line; lines of nothing but white space are passed over
``.json``               one list of JSON objects, or as ``.jsonl``
``.parquet``            one document a row
``.gz``, ``.zst``       behind ``.txt``, ``.jsonl``, ``.json``: compressed
======================  ===================================================================================

Adding a format: a function from a run of files to pieces, and a line in ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megadape.data.reading.cutting import cut_json_lines, cut_json_list, cut_separated
from megadape.data.reading.inputs import StoredFile
from megadape.data.reading.parquet import columns_of, group_rows, open_parquet
from megadape.data.reading.pieces import Piece, RangePiece, RowGroupPiece, StreamPiece, TextPiece, open_file
from megadape.data.reading.records import Selection
from megadape.data.reading.streams import compression_of, opened
from megadape.errors import DataError

_FILES_AT_ONCE = 256

Run = Sequence[tuple[int, StoredFile]]
"""Files of one format, one after another, with their numbers in the corpus."""


@dataclass(frozen=True)
class CutOptions:
    """How a corpus is cut.

    Args:
        selection: which values of which records are texts.
        separator: line between documents of plain text; None when every file is one document.
        max_line_bytes: the longest line, or document of plain text, that is read.
        block_bytes: input that a worker gets at once.
        shard_bytes: input after which progress is written down.
    """

    selection: Selection
    separator: bytes | None
    max_line_bytes: int
    block_bytes: int
    shard_bytes: int


def text_pieces(files: Run, options: CutOptions) -> Iterator[Piece]:
    """Plain text."""
    for _, file in files:
        if options.selection.where or len(options.selection.keys) > 1:
            raise DataError(
                f"{file.path} is plain text and has no keys: leave it out, or give one JSON key and no condition"
            )
    if options.separator is None:
        yield from _grouped(files, options.block_bytes)
        return
    cut = partial(
        cut_separated,
        separator=options.separator,
        block_bytes=options.block_bytes,
        limit=options.max_line_bytes,
    )
    for source, file in files:
        if compression_of(file.path):
            yield StreamPiece(source, file.size, open_file(file.path), cut, file)
        else:
            yield from _ranges(source, file, options, options.separator)


def json_lines_pieces(files: Run, options: CutOptions) -> Iterator[Piece]:
    """JSON lines."""
    cut = partial(cut_json_lines, block_bytes=options.block_bytes, limit=options.max_line_bytes)
    for source, file in files:
        if compression_of(file.path):
            yield StreamPiece(source, file.size, open_file(file.path), cut, file)
        else:
            yield from _ranges(source, file, options, None)


def json_pieces(files: Run, options: CutOptions) -> Iterator[Piece]:
    """A JSON list, or JSON lines."""
    cut = partial(cut_json_list, block_bytes=options.block_bytes, limit=options.max_line_bytes)
    for source, file in files:
        if _is_list(file.path):
            yield StreamPiece(source, file.size, open_file(file.path), cut, file)
        else:
            yield from json_lines_pieces([(source, file)], options)


def parquet_pieces(files: Run, options: CutOptions) -> Iterator[Piece]:
    """Row groups."""
    for source, file in files:
        if compression_of(file.path):
            raise DataError(f"{file.path} is compressed as a whole: unpack it, Parquet compresses by itself")
        with open_parquet(file.path) as parquet:
            columns = columns_of(parquet, options.selection, file.path)
            found = list(group_rows(parquet, columns, options.block_bytes))
        if not found:
            yield RangePiece(source, file, file.size, file.size, options.block_bytes, None)
        for groups in found:
            yield RowGroupPiece(source, file, groups, columns, options.block_bytes, last=groups is found[-1])


FORMATS: dict[str, Callable[[Run, CutOptions], Iterator[Piece]]] = {
    ".txt": text_pieces,
    ".jsonl": json_lines_pieces,
    ".json": json_pieces,
    ".parquet": parquet_pieces,
}
"""Ending of a name (without its compression) -> the pieces of such files."""


def format_of(path: Path, text_suffixes: Sequence[str]) -> str:
    """The ending in ``FORMATS`` that says how a file is read."""
    base = Path(path.stem) if compression_of(path) else path
    suffix = base.suffix.lower()
    return ".txt" if suffix in text_suffixes else suffix


def _grouped(files: Run, block_bytes: int) -> Iterator[TextPiece]:
    """Small files together."""
    held: list[tuple[int, StoredFile]] = []
    size = 0
    for source, file in files:
        held.append((source, file))
        size += file.size
        if size >= block_bytes or len(held) == _FILES_AT_ONCE:
            yield TextPiece(tuple(held))
            held, size = [], 0
    if held:
        yield TextPiece(tuple(held))


def _ranges(source: int, file: StoredFile, options: CutOptions, separator: bytes | None) -> Iterator[RangePiece]:
    """A file in ranges of a shard each."""
    for start in range(0, max(1, file.size), options.shard_bytes):
        stop = min(start + options.shard_bytes, file.size)
        yield RangePiece(source, file, start, stop, options.block_bytes, separator)


def _is_list(path: Path) -> bool:
    """Whether the first character of a file, other than white space, opens a list."""
    with opened(path) as stream:
        while chunk := stream.content.read(1 << 12):
            if chunk := chunk.lstrip():
                return chunk.startswith(b"[")
    return False
