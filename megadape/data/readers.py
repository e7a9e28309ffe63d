"""The documents of a corpus, one after another, in this process (see ``reading.formats`` for what can be read).

What is not as it should be raises a ``DataError`` with file, line and the first characters. Memory: a block of input
and the longest document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megadape.data.files import PathLike
from megadape.data.reading.contents import ReadOptions
from megadape.data.reading.digests import SourceDigests
from megadape.data.reading.formats import CutOptions
from megadape.data.reading.ledger import Ledger, Source
from megadape.data.reading.plan import plan_corpus
from megadape.data.reading.records import Selection
from megadape.errors import DataError

MAX_LINE_BYTES = 1 << 28
"""The longest line, or document of plain text, unless another is asked for."""

BLOCK_BYTES = 1 << 20
SHARD_BYTES = 1 << 26


@dataclass(frozen=True)
class Document:
    """One document of a corpus."""

    text: str
    source: Path
    line: int
    """Line of the file on which it begins, from 1."""


class CorpusReader:
    """The documents of a corpus, file after file, in a stated order (see ``reading.inputs.find_files``).

    Iterating reads the files and fills ``sources`` and ``undecodable``; ``read_bytes`` says how far the reading is.

    Args:
        inputs: files, folders, globs, ``-`` and ``hf:NAME``.
        json_key: key of the text in JSON objects.
        text_suffixes: further endings, such as ".py", that are read as plain text.
        skip_undecodable: pass over plain text files that are not UTF-8 and list them in ``undecodable``, instead of
            failing.
        exclude: files that folders and globs do not give.
        document_separator: line between the documents of a plain text file, empty for blank lines; None when every
            such file is one document.
    """

    def __init__(
        self,
        inputs: Sequence[PathLike],
        *,
        json_key: str = "text",
        text_suffixes: Sequence[str] = (),
        skip_undecodable: bool = False,
        exclude: Sequence[PathLike] = (),
        document_separator: str | None = None,
    ) -> None:
        self._options = ReadOptions(Selection((json_key,), {}), MAX_LINE_BYTES)
        separator = None if document_separator is None else document_separator.rstrip().encode()
        cut = CutOptions(self._options.selection, separator, MAX_LINE_BYTES, BLOCK_BYTES, SHARD_BYTES)
        self._plan = plan_corpus(inputs, cut, text_suffixes, exclude)
        self._skip_undecodable = skip_undecodable
        self.files = tuple(file.path for file in self._plan.files)
        self.total_bytes = self._plan.total_bytes
        self.read_bytes = 0
        """Bytes read so far, of ``total_bytes``; compressed files count as they are stored."""
        self.sources: list[Source] = []
        self.undecodable: list[Path] = []

    def __iter__(self) -> Iterator[Document]:
        with SourceDigests() as digests:
            ledger = Ledger(self._plan, digests)
            self.sources = ledger.finished
            for shard in self._plan.shards:
                for block in shard.blocks(digests):
                    self.read_bytes += block.stored
                    for content in block.read(self._options):
                        tally = content.tally()
                        path = Path(self._plan.sources[content.source].name)
                        first = ledger.first_line(tally)
                        for texts, line in zip(content.documents, content.starts, strict=True):
                            yield Document(texts[0], path, first + line + 1)
                        for record in ledger.add(tally):
                            if not (self._skip_undecodable and record.bad.text_file):
                                raise DataError(str(record))
                            self.undecodable.append(path)
            ledger.finish()
            self.read_bytes = self.total_bytes
