"""The files of the datasets while they grow by one part after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self

from megadape.data.files import HashedFile, reporting
from megadape.data.indexed_format import best_dtype
from megadape.data.preprocessing.copying import append_file
from megadape.data.preprocessing.datasets import Datasets
from megadape.data.preprocessing.finished_parts import FinishedPart, join_sources
from megadape.data.preprocessing.journal import KeyMark, Mark
from megadape.data.preprocessing.pair import GrowingPair
from megadape.data.preprocessing.parts import BAD_RECORDS, key_name
from megadape.data.preprocessing.progress import Progress
from megadape.data.preprocessing.work import Outcome
from megadape.faults import reach


class MergedFiles:
    """Files that grow by one part after another; a context manager.

    Args:
        datasets: what is made.
        parts: all of them.
        mark: from which to go on; None at the beginning.
    """

    def __init__(self, datasets: Datasets, parts: Sequence[FinishedPart], mark: Mark | None) -> None:
        self._datasets, self._parts = datasets, parts
        dtype, folders = best_dtype(datasets.tokenizer.vocab_size), datasets.folders
        marks = mark.keys if mark is not None else [None] * len(folders)
        self._pairs = [
            GrowingPair(folder, name, dtype, key) for (folder, name), key in zip(folders, marks, strict=True)
        ]
        self._bad: HashedFile | None = None
        if datasets.settings.on_bad_line == "quarantine":
            with reporting("write", datasets.quarantine):
                self._bad = HashedFile(datasets.quarantine, keep=mark.quarantine_bytes if mark is not None else 0)
        self.count = mark.shard if mark is not None else 0
        """Parts that are merged."""
        self._first, self._since, self._begun = self.count, 0, time.monotonic()
        self.total = self._progress(len(parts))
        """All that there is to merge."""

    def add(self, part: FinishedPart) -> None:
        """Copy what a part has made."""
        mark = part.mark
        with part.held() as folder:
            for number, (pair, key) in enumerate(zip(self._pairs, mark.keys, strict=True)):
                pair.extend(folder, key_name(number), key)
            if self._bad is not None and mark.quarantine_bytes:
                with reporting("write", self._datasets.quarantine):
                    append_file(folder / BAD_RECORDS, self._bad, mark.quarantine_bytes, mark.quarantine_sha256)
        reach("preprocess.after_write")
        self.count += 1
        self._since += sum(key.bin_size for key in mark.keys)
        if self._since >= self._datasets.settings.shard_bytes:
            self._mark()

    def progress(self, *, done: bool = False) -> Progress:
        """How far the merging is."""
        return self._progress(self.count, done=done)

    def finish(self) -> Outcome:
        """Complete all files but the manifests, still in their folders."""
        self._sync_bad()
        marks = [part.mark for part in self._parts]
        total = self.total
        return Outcome(
            pairs=tuple(pair.seal() for pair in self._pairs),
            text_bytes=tuple(sum(mark.keys[key].text_bytes for mark in marks) for key in range(len(self._pairs))),
            empty=tuple(sum(mark.keys[key].empty for mark in marks) for key in range(len(self._pairs))),
            documents=total.documents,
            bad=total.bad,
            passed_over=total.passed_over,
            undecodable=tuple(name for mark in marks for name in mark.undecodable),
            sources=join_sources(marks),
        )

    def _mark(self) -> None:
        """Have it written down that the parts so far are merged."""
        self._since = 0
        reach("preprocess.before_flush")
        for pair in self._pairs:
            pair.sync()
        self._sync_bad()
        reach("preprocess.before_mark")
        self._datasets.journal.append(
            Mark(
                shard=self.count,
                keys=tuple(KeyMark(**dict(pair.mark())) for pair in self._pairs),
                quarantine_bytes=0 if self._bad is None else self._bad.size,
                bad=self.progress().bad,
            )
        )
        reach("preprocess.after_mark")

    def _sync_bad(self) -> None:
        if self._bad is not None:
            with reporting("write", self._datasets.quarantine):
                self._bad.sync()

    def _progress(self, count: int, *, done: bool = False) -> Progress:
        marks = [part.mark for part in self._parts]
        merged, before = marks[:count], marks[: self._first]
        return Progress(
            documents=sum(mark.keys[0].documents for mark in merged),
            empty_documents=sum(mark.keys[0].empty for mark in merged),
            bad=sum(mark.bad for mark in merged),
            passed_over=sum(mark.passed_over for mark in merged),
            tokens=sum(key.tokens for mark in merged for key in mark.keys),
            text_bytes=sum(key.text_bytes for mark in merged for key in mark.keys),
            read_bytes=sum(key.bin_size for mark in merged for key in mark.keys),
            total_bytes=sum(key.bin_size for mark in marks for key in mark.keys),
            seconds=time.monotonic() - self._begun,
            resumed_documents=sum(mark.keys[0].documents for mark in before),
            resumed_text_bytes=sum(key.text_bytes for mark in before for key in mark.keys),
            done=done,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pair in self._pairs:
            pair.close()
        if self._bad is not None:
            self._bad.close()
