"""Parquet files: row groups in order, the columns that are asked for and no others.

The parent process unpacks (about 1 GB/s, a part of a row group at a time, however large row groups are) and hands
record batches on; workers make texts of them. What is a line elsewhere is a row here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import orjson

from megadape.data.files import reporting
from megadape.data.reading.contents import Content, ReadOptions
from megadape.data.reading.lines import Record
from megadape.data.reading.records import Selection, UnusableError
from megadape.errors import DataError

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch
    from pyarrow.parquet import ParquetFile

_MOST_ROWS = 1 << 16
_BUFFER = 1 << 20


@dataclass
class Rows:
    """Rows of a table, of the columns that are asked for."""

    source: int
    first_line: int
    table: bytes
    """A record batch as an Arrow stream: without what else is in its buffers, of which it may be a slice."""
    stored: int = 0

    def read(self, options: ReadOptions) -> Iterator[Content]:
        """The documents of its rows."""
        from pyarrow import ipc

        batch = ipc.open_stream(self.table).read_next_batch()
        names = batch.schema.names
        columns = [_values(column) for column in batch.columns]
        content = Content(self.source, self.first_line, lines=batch.num_rows)
        for number, values in enumerate(zip(*columns, strict=True)):
            row = dict(zip(names, values, strict=True))
            _take(content, number, row, options)
        yield content


def _take(content: Content, number: int, row: dict[str, Any], options: ReadOptions) -> None:
    """Add a row; only of a bad one its bytes are made."""
    try:
        texts = options.selection(row)
        too_long = any(len(text) > options.max_line_bytes for text in texts or ())
    except UnusableError:
        texts, too_long = None, True
    if not too_long and texts is not None:
        content.documents.append(texts)
        content.starts.append(number)
    elif not too_long:
        content.passed_over += 1
    else:
        written = orjson.dumps(row, default=_as_text, option=orjson.OPT_NON_STR_KEYS)
        content.take(Record(number, len(written), written), lambda _: options.selection(row), options.max_line_bytes)


def _values(column: Array) -> list[object]:
    """The values of a column; bytes become text where they are UTF-8."""
    import pyarrow as pa

    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        large = pa.types.is_large_string(column.type)
        values = column.cast(pa.large_binary() if large else pa.binary()).to_pylist()
    return [_text_of(value) if isinstance(value, bytes) else value for value in values]


def _text_of(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _as_text(value: object) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def open_parquet(path: Path) -> ParquetFile:
    """A Parquet file; ``DataError`` when it is none, or the library is missing."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"reading {path} needs pyarrow: pip install 'megadape[parquet]'") from error
    with reporting("read", path):
        try:
            return ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
        except ArrowException as error:
            raise DataError(f"{path} is not a Parquet file: {error}") from error


def columns_of(file: ParquetFile, selection: Selection, path: Path) -> list[str]:
    """The columns that hold the keys and the conditions; ``DataError`` for a key without a column."""
    known = file.schema_arrow.names
    wanted = []
    for key in (*selection.keys, *selection.where):
        column = key if key in known else key.partition(".")[0]
        if column in known:
            wanted.append(column)
        elif key in selection.keys:
            raise DataError(
                f"{path} has no column {key!r}: name one of its columns as a JSON key; they are {', '.join(known)}"
            )
    return list(dict.fromkeys(wanted))


@dataclass(frozen=True)
class RowGroups:
    """Row groups one after another."""

    first: int
    stop: int
    first_row: int
    rows: int
    stored: int
    """Bytes of the columns that are asked for, as they are stored."""
    unpacked: int
    """Bytes of those columns."""

    @classmethod
    def at(cls, file: ParquetFile, group: int, first_row: int, columns: list[str]) -> Self:
        """One row group."""
        parts = file.metadata.row_group(group)
        chunks = [parts.column(i) for i in range(parts.num_columns)]
        wanted = [chunk for chunk in chunks if _is_of(chunk.path_in_schema, columns)]
        stored = sum(chunk.total_compressed_size for chunk in wanted)
        unpacked = sum(chunk.total_uncompressed_size for chunk in wanted)
        return cls(group, group + 1, first_row, parts.num_rows, stored, unpacked)

    def __add__(self, other: RowGroups) -> RowGroups:
        return RowGroups(
            self.first,
            other.stop,
            self.first_row,
            self.rows + other.rows,
            self.stored + other.stored,
            self.unpacked + other.unpacked,
        )


def group_rows(file: ParquetFile, columns: list[str], enough: int) -> Iterator[RowGroups]:
    """The row groups of a file, small ones together until they have ``enough`` bytes."""
    held: RowGroups | None = None
    row = 0
    for group in range(file.num_row_groups):
        one = RowGroups.at(file, group, row, columns)
        row += one.rows
        held = one if held is None else held + one
        if held.unpacked >= enough:
            yield held
            held = None
    if held is not None:
        yield held


def _is_of(path: str, columns: list[str]) -> bool:
    return any(path == column or path.startswith(f"{column}.") for column in columns)


def row_blocks(path: Path, source: int, groups: RowGroups, columns: list[str], block_bytes: int) -> Iterator[Rows]:
    """The rows of row groups in blocks of about so many bytes."""
    from pyarrow import ArrowException

    size = max(1, min(_MOST_ROWS, block_bytes * groups.rows // max(1, groups.unpacked)))
    row = groups.first_row
    with reporting("read", path), open_parquet(path) as file:
        numbers = list(range(groups.first, groups.stop))
        batches = file.iter_batches(size, row_groups=numbers, columns=columns, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except ArrowException as error:
                raise DataError(
                    f"{path}, after row {row}: it is damaged ({error}): restore it or leave it out"
                ) from error
            if batch is None:
                return
            for part in _parts(batch, block_bytes):
                yield Rows(source, row, _stream(part))
                row += part.num_rows


def _stream(batch: RecordBatch) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _parts(batch: RecordBatch, block_bytes: int) -> Iterator[RecordBatch]:
    """A batch that is larger than was foreseen, in smaller ones."""
    count = min(batch.num_rows, -(-batch.nbytes // block_bytes)) if batch.num_rows else 0
    step = -(-batch.num_rows // max(1, count))
    for start in range(0, batch.num_rows, max(1, step)):
        yield batch.slice(start, step)
