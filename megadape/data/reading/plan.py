"""The plan of a corpus: its sources in order, and the shards that the work is divided into.

The plan depends on the inputs and the options alone, never on who works it off: the same inputs give the same shards,
in the same order. A shard can be worked on without any other, and what shards give, one after another, is the corpus.
One process works all shards off in their order, or processes on many machines each a share of them (``shares``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path

from megadape.data.files import PathLike
from megadape.data.reading.contents import Block
from megadape.data.reading.cutting import cut_json_lines
from megadape.data.reading.digests import SourceDigests
from megadape.data.reading.formats import FORMATS, CutOptions, format_of
from megadape.data.reading.hub import MARK, HubDataset
from megadape.data.reading.inputs import StoredFile, find_files
from megadape.data.reading.pieces import Piece, StreamPiece, open_hub, open_stdin

STDIN = "-"
"""The input that stands for standard input, as JSON lines."""

Given = StoredFile | HubDataset | str


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """One source of a corpus."""

    name: str
    """Path of the file, or what the user gave."""
    format: str
    """How it is read: an ending, - or hf:."""
    size: int
    """Bytes as they are stored; 0 when they are not known before."""
    identity: str
    """What changes when the source does."""
    unit: str = "line"
    """What its records are counted in."""


@dataclass(frozen=True)
class Shard:
    """A part of the work that can be done by itself."""

    pieces: tuple[Piece, ...]
    first_source: int
    """Number of the source that it begins in."""

    @property
    def size(self) -> int:
        """Bytes of the input, as they are stored, as far as they are known before."""
        return sum(piece.size for piece in self.pieces)

    def blocks(self, digests: SourceDigests) -> Iterator[Block]:
        """Its blocks in order."""
        return chain.from_iterable(piece.blocks(digests) for piece in self.pieces)


@dataclass(frozen=True)
class Plan:
    """What there is to read."""

    sources: tuple[PlannedSource, ...]
    shards: tuple[Shard, ...]
    files: tuple[StoredFile, ...]
    """Those of the sources that are files."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all sources, as they are stored; 0 when they are not all known."""
        known = all(source.format not in (STDIN, MARK) for source in self.sources)
        return sum(source.size for source in self.sources) if known else 0

    @property
    def repeatable(self) -> bool:
        """Whether the sources can be read a second time."""
        return all(source.format != STDIN for source in self.sources)

    def file(self, source: int) -> StoredFile | None:
        """A source as the file that it is."""
        planned = self.sources[source]
        if planned.format in (STDIN, MARK):
            return None
        return StoredFile(Path(planned.name), planned.size, int(planned.identity))


def plan_corpus(
    inputs: Sequence[PathLike], options: CutOptions, text_suffixes: Sequence[str] = (), exclude: Sequence[PathLike] = ()
) -> Plan:
    """Find the sources and divide the work.

    Args:
        inputs: files, folders, globs, ``-`` for standard input, ``hf:NAME`` for datasets of Hugging Face.
        options: how sources are cut.
        text_suffixes: further endings, such as ".py", that are read as plain text.
        exclude: files that folders and globs do not give.
    """
    texts = tuple(f".{suffix.lower().removeprefix('.')}" for suffix in text_suffixes)
    given = _find(inputs, (*FORMATS, *texts), exclude)
    sources = [_describe(one, texts) for one in given]
    pieces = chain.from_iterable(
        _pieces(kind, [(number, given[number]) for number in run], options)
        for kind, run in groupby(range(len(given)), lambda number: sources[number].format)
    )
    files = tuple(one for one in given if isinstance(one, StoredFile))
    return Plan(tuple(sources), tuple(_shards(pieces, options.shard_bytes)), files)


def _find(inputs: Sequence[PathLike], endings: Sequence[str], exclude: Sequence[PathLike]) -> list[Given]:
    """The sources in order, each once."""
    found: dict[Path | str, Given] = {}
    for special, run in groupby(inputs, _is_special):
        if special:
            found |= {str(one): _special(str(one)) for one in run if str(one) not in found}
        else:
            files = [path for path in find_files(list(run), endings, exclude) if path.resolve() not in found]
            found |= {path.resolve(): StoredFile.at(path) for path in files}
    return list(found.values())


def _is_special(given: PathLike) -> bool:
    return str(given) == STDIN or str(given).startswith(MARK)


def _special(given: str) -> Given:
    return STDIN if given == STDIN else HubDataset.parse(given)


def _describe(one: Given, texts: Sequence[str]) -> PlannedSource:
    if isinstance(one, StoredFile):
        kind = format_of(one.path, texts)
        unit = "row" if kind == ".parquet" else "line"
        return PlannedSource(str(one.path), kind, one.size, str(one.modified), unit)
    if isinstance(one, HubDataset):
        return PlannedSource(one.given, MARK, 0, one.identity(), "row")
    return PlannedSource(one, STDIN, 0, "")


def _pieces(kind: str, run: list[tuple[int, Given]], options: CutOptions) -> Iterable[Piece]:
    files = [(number, one) for number, one in run if isinstance(one, StoredFile)]
    if files:
        return FORMATS[kind](files, options)
    cut = partial(cut_json_lines, block_bytes=options.block_bytes, limit=options.max_line_bytes)
    return [
        StreamPiece(number, 0, open_hub(one, options.selection) if isinstance(one, HubDataset) else open_stdin, cut)
        for number, one in run
    ]


def _shards(pieces: Iterable[Piece], shard_bytes: int) -> Iterator[Shard]:
    """Pieces together until they have enough bytes."""
    held: list[Piece] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += piece.size
        if size >= shard_bytes:
            yield Shard(tuple(held), held[0].source)
            held, size = [], 0
    if held:
        yield Shard(tuple(held), held[0].source)
