"""Documents from files: plain text, JSON lines and JSON lists, compressed or not.

=================  ==========================================================================================
``.txt``           one document a file, in UTF-8 (also every suffix in ``text_suffixes``)
``.jsonl``         one JSON object a line; lines of nothing but white space are passed over
``.json``          one list of JSON objects, or as ``.jsonl``
+ ``.gz, .zst``    any of these, compressed
=================  ==========================================================================================

What is not as it should be raises a ``DataError`` with file, line and the first characters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import orjson

from megadape.data.files import PathLike
from megadape.data.sources import (
    HashedInput,
    Source,
    compression_of,
    decompression_errors,
    find_files,
    opened,
)
from megadape.errors import DataError

_BOM = b"\xef\xbb\xbf"
_SHOWN = 60


@dataclass(frozen=True)
class Document:
    """One document of a corpus."""

    text: str
    source: Path
    line: int
    """Line of the file on which it begins, from 1."""


@dataclass
class _Position:
    """Where in a file a reader is."""

    path: Path
    json_key: str
    line: int = 0

    def error(self, what: str, found: bytes | str) -> DataError:
        return DataError(f"{self.path}, line {self.line}: {what}; it begins {found[:_SHOWN]!r}")


class CorpusReader:
    """The documents of a corpus, file after file, in a stated order (see ``sources.find_files``).

    Iterating reads the files and fills ``sources`` and ``undecodable``; ``read_bytes`` says how far the reading is.

    Args:
        inputs: files, folders and globs.
        json_key: key of the text in JSON objects.
        text_suffixes: further endings, such as ".py", that are read as plain text.
        skip_undecodable: pass over plain text files that are not UTF-8 and list them in ``undecodable``, instead of
            failing.
        exclude: files that folders and globs do not give.
    """

    def __init__(
        self,
        inputs: Sequence[PathLike],
        *,
        json_key: str = "text",
        text_suffixes: Sequence[str] = (),
        skip_undecodable: bool = False,
        exclude: Sequence[PathLike] = (),
    ) -> None:
        texts = [f".{suffix.lower().removeprefix('.')}" for suffix in text_suffixes]
        self._formats = _FORMATS | dict.fromkeys(texts, _read_text)
        self._json_key = json_key
        self._skip_undecodable = skip_undecodable
        self.files = find_files(inputs, tuple(self._formats), exclude)
        self.total_bytes = sum(path.stat().st_size for path in self.files)
        self.sources: list[Source] = []
        self.undecodable: list[Path] = []
        self._current: HashedInput | None = None

    @property
    def read_bytes(self) -> int:
        """Bytes read so far, of ``total_bytes``; compressed files count as they are stored."""
        return sum(source.size for source in self.sources) + (self._current.count if self._current else 0)

    def __iter__(self) -> Iterator[Document]:
        for path in self.files:
            position = _Position(path, self._json_key)
            with opened(path) as (stream, raw):
                self._current = raw
                yield from self._documents(stream, position)
                self._current = None
                self.sources.append(Source(path=str(path), size=raw.count, sha256=raw.hash.hexdigest()))

    def _documents(self, stream: BinaryIO, position: _Position) -> Iterator[Document]:
        path = position.path
        base = Path(path.stem) if compression_of(path) else path
        read = self._formats[base.suffix.lower()]
        damaged = decompression_errors()
        documents = read(stream, position)
        while True:
            try:
                document = next(documents, None)
            except damaged as error:
                raise DataError(
                    f"{path}, after line {position.line}: the file is truncated or damaged ({error})"
                ) from error
            except _UndecodableError:
                if not self._skip_undecodable:
                    raise
                self.undecodable.append(path)
                return
            if document is None:
                return
            yield document


class _UndecodableError(DataError):
    """A plain text file that is not UTF-8."""


def _read_text(stream: BinaryIO, position: _Position) -> Iterator[Document]:
    content = stream.read().removeprefix(_BOM)
    position.line = 1
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = replace(position, line=line).error(
            f"byte {content[error.start]:#04x} is not valid UTF-8", content[error.start :]
        )
        raise _UndecodableError(str(where)) from error
    yield Document(text, position.path, 1)


def _read_json_lines(stream: BinaryIO, position: _Position) -> Iterator[Document]:
    for line in _lines(stream, position):
        yield _document_of_line(line, position)


def _read_json(stream: BinaryIO, position: _Position) -> Iterator[Document]:
    lines = _lines(stream, position)
    first = next(lines, b"")
    if first.lstrip().startswith(b"["):
        yield from _read_list(first + stream.read(), position)
    elif first:
        yield _document_of_line(first, position)
        for line in lines:
            yield _document_of_line(line, position)


def _document_of_line(line: bytes, position: _Position) -> Document:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise position.error(f"not valid JSON ({error.msg})", line) from error
    if (problem := _problem(record, position.json_key)) is not None:
        raise position.error(problem, line)
    return Document(record[position.json_key], position.path, position.line)


def _read_list(content: bytes, position: _Position) -> Iterator[Document]:
    """Documents of a JSON list, whose first line is the position's line."""
    try:
        records = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        line = content.split(b"\n")[error.lineno - 1]
        raise replace(position, line=position.line + error.lineno - 1).error(
            f"not valid JSON ({error.msg})", line
        ) from error
    for number, record in enumerate(records):
        if (problem := _problem(record, position.json_key)) is not None:
            text = content.decode()
            start = _start_of_element(text, number)
            raise replace(position, line=position.line + text.count("\n", 0, start)).error(problem, text[start:])
        yield Document(record[position.json_key], position.path, position.line)


def _start_of_element(content: str, number: int) -> int:
    """Index of the first character of an element of a JSON list that is known to be valid."""
    decoder, index = json.JSONDecoder(), content.index("[") + 1
    for _ in range(number):
        index = _skip(content, index, " \t\r\n")
        _, index = decoder.raw_decode(content, index)
        index = _skip(content, index, " \t\r\n,")
    return _skip(content, index, " \t\r\n")


def _skip(content: str, index: int, characters: str) -> int:
    while content[index] in characters:
        index += 1
    return index


def _lines(stream: BinaryIO, position: _Position) -> Iterator[bytes]:
    """Lines that hold something; the position follows."""
    for line in stream:
        position.line += 1
        if position.line == 1:
            line = line.removeprefix(_BOM)
        if not line.isspace() and line:
            yield line


def _problem(record: object, key: str) -> str | None:
    """Why a JSON value gives no document, if it gives none."""
    if not isinstance(record, dict):
        return f"a JSON object is wanted, not a {_json_type(record)}"
    if key not in record:
        return f"the object has no key {key!r} (its keys: {', '.join(map(repr, list(record)[:10])) or 'none'})"
    if not isinstance(record[key], str):
        return f"the value of {key!r} must be a string, not a {_json_type(record[key])}"
    return None


def _json_type(value: object) -> str:
    names: dict[type, str] = {
        dict: "object",
        list: "list",
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
    }
    return names.get(type(value), "null")


_FORMATS: dict[str, Callable[[BinaryIO, _Position], Iterator[Document]]] = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
}
"""Ending of a name (without its compression) -> reader."""
