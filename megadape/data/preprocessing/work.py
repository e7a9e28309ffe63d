"""The work itself: blocks go to the workers, ids come back in order, and from time to time everything is flushed.

This process alone writes. What it has written since the last mark is lost in a kill, and made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from megadape.data.files import flush_folder, reporting
from megadape.data.indexed_writer import WrittenPair
from megadape.data.preprocessing.bad_lines import BadLines
from megadape.data.preprocessing.encoding import Encoded, Task
from megadape.data.preprocessing.journal import Journal, KeyMark, Mark
from megadape.data.preprocessing.pair import GrowingPair
from megadape.data.preprocessing.progress import Progress
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.reading.digests import SourceDigests
from megadape.data.reading.ledger import Account, Ledger, Source
from megadape.data.reading.shares import Share
from megadape.faults import reach


@dataclass
class _Key:
    """What is counted of one key."""

    pair: GrowingPair
    text_bytes: int
    empty: int

    def mark(self) -> KeyMark:
        return KeyMark(**dict(self.pair.mark()), text_bytes=self.text_bytes, empty=self.empty)


@dataclass(frozen=True)
class Outcome:
    """What came of the work."""

    pairs: tuple[WrittenPair, ...]
    """Of each key."""
    text_bytes: tuple[int, ...]
    empty: tuple[int, ...]
    documents: int
    bad: int
    passed_over: int
    undecodable: tuple[str, ...]
    sources: tuple[Source, ...]


class Work:
    """A preprocessing under way; a context manager.

    Args:
        settings: what to do.
        share: of the corpus that is worked off.
        dtype: of the ids.
        folders: folder and name of the dataset of each key.
        quarantine: file of the bad records.
        journal: where marks are written.
        mark: from which to go on; None at the beginning.
    """

    def __init__(
        self,
        settings: PreprocessSettings,
        share: Share,
        dtype: np.dtype[np.integer],
        folders: Sequence[tuple[Path, str]],
        quarantine: Path,
        journal: Journal,
        mark: Mark | None,
    ) -> None:
        start = mark or Mark(shard=share.start, source=share.first_source, keys=tuple(KeyMark() for _ in folders))
        self._settings, self._share, self._plan, self._start = settings, share, share.plan, start
        self._digests = SourceDigests(share.ended)
        account = Account(start.source, *start.account)
        self._ledger = Ledger(share.plan, self._digests, start.finished, account, share)
        self._bad = BadLines(
            settings.on_bad_line,
            settings.max_bad_lines,
            settings.skip_undecodable,
            quarantine,
            start.bad,
            start.quarantine_bytes,
        )
        self._keys = [
            _Key(GrowingPair(folder, name, dtype, key if mark else None), key.text_bytes, key.empty)
            for (folder, name), key in zip(folders, start.keys, strict=True)
        ]
        self._folders = {folder for folder, _ in folders}
        self._undecodable = list(start.undecodable)
        self._shard, self._blocks, self._since = start.shard, start.blocks, 0
        self._told = (len(start.finished), len(start.undecodable))
        self._marks = _Marker(journal, self._sync, mark)
        self._begun = time.monotonic()
        self.progress = self._first_progress()

    @property
    def marked(self) -> Mark | None:
        """The last mark that is on the disk."""
        return self._marks.last

    def tasks(self) -> Iterator[Task]:
        """The blocks that are left."""
        for number in range(self._start.shard, self._share.stop):
            done = self._start.blocks if number == self._start.shard else 0
            for block in islice(self._plan.shards[number].blocks(self._digests), done, None):
                yield Task(number, block)

    def add(self, encoded: Encoded) -> None:
        """Write what came of a block; blocks come in their order."""
        if encoded.shard > self._shard:
            self._ledger.finish_before(self._plan.shards[encoded.shard].first_source)
            self._shard, self._blocks = encoded.shard, 0
            self._mark()
        elif self._since >= self._settings.shard_bytes:
            self._mark()
        documents = sum(tally.documents for tally in encoded.tallies)
        for key, text in zip(self._keys, encoded.texts, strict=True):
            assert len(text.lengths) == documents, "every document has a text under every key"
            key.pair.add(text.tokens, text.lengths)
            key.text_bytes += text.text_bytes
            key.empty += text.empty
        reach("preprocess.after_write")
        for tally in encoded.tallies:
            for record in self._ledger.add(tally):
                self._bad.add(record)
                if record.bad.text_file:
                    self._undecodable.append(record.file)
        self._blocks += 1
        self._since += encoded.stored
        self._advance(encoded, documents)

    def finish(self) -> Outcome:
        """Complete all files of the whole corpus but the manifests, still in their folders."""
        sources = self._finish()
        now = self.progress
        return Outcome(
            pairs=tuple(key.pair.seal() for key in self._keys),
            text_bytes=tuple(key.text_bytes for key in self._keys),
            empty=tuple(key.empty for key in self._keys),
            documents=now.documents,
            bad=now.bad,
            passed_over=now.passed_over,
            undecodable=tuple(self._undecodable),
            sources=sources,
        )

    def finish_part(self) -> Mark:
        """Complete what a share of the corpus gives, as it is to be merged; the mark that says so, not yet written."""
        self._finish()
        self._share.require_unchanged()
        self._shard, self._blocks = self._share.stop, 0
        mark = self._here()
        self._sync()
        return mark.model_copy(update={"complete": True, "quarantine_sha256": self._bad.sha256})

    def _finish(self) -> tuple[Source, ...]:
        """Close the accounts; nothing is added any more."""
        sources = self._ledger.finish()
        self._bad.sync()
        self._marks.wait()
        now = self.progress
        self.progress = replace(now, read_bytes=now.total_bytes or now.read_bytes, done=True)
        return sources

    def _advance(self, encoded: Encoded, documents: int) -> None:
        now = self.progress
        self.progress = replace(
            now,
            documents=now.documents + documents,
            empty_documents=now.empty_documents + encoded.texts[0].empty,
            bad=self._bad.count,
            passed_over=now.passed_over + sum(tally.passed_over for tally in encoded.tallies),
            tokens=now.tokens + sum(len(text.tokens) for text in encoded.texts),
            text_bytes=now.text_bytes + sum(text.text_bytes for text in encoded.texts),
            read_bytes=now.read_bytes + encoded.stored,
            seconds=time.monotonic() - self._begun,
        )

    def _first_progress(self) -> Progress:
        start = self._start
        documents, text_bytes = start.keys[0].documents, sum(key.text_bytes for key in start.keys)
        return Progress(
            documents=documents,
            empty_documents=start.keys[0].empty,
            bad=start.bad,
            passed_over=start.passed_over,
            tokens=sum(key.tokens for key in start.keys),
            text_bytes=text_bytes,
            read_bytes=start.read_bytes,
            total_bytes=self._share.total_bytes,
            resumed_documents=documents,
            resumed_text_bytes=text_bytes,
        )

    def _mark(self) -> None:
        """Have it written down that everything so far is done."""
        self._since = 0
        if self._plan.repeatable:
            self._marks.write(self._here())

    def _here(self) -> Mark:
        """How far everything is, all of it in the hands of the system."""
        self._bad.flush()
        account = self._ledger.current
        finished, undecodable = self._told
        mark = Mark(
            shard=self._shard,
            blocks=self._blocks,
            read_bytes=self.progress.read_bytes,
            keys=tuple(key.mark() for key in self._keys),
            quarantine_bytes=self._bad.kept,
            bad=self._bad.count,
            passed_over=self.progress.passed_over,
            undecodable=tuple(self._undecodable[undecodable:]),
            finished=tuple(self._ledger.finished[finished:]),
            source=account.source,
            account=(account.lines, account.documents, account.passed_over, account.bad),
        )
        self._told = (len(self._ledger.finished), len(self._undecodable))
        return mark

    def flush_folders(self) -> None:
        """Make the files' names survive a power cut, as ``sync`` does their content."""
        for folder in self._folders:
            with reporting("flush the folder", folder):
                flush_folder(folder)

    def _sync(self) -> None:
        for key in self._keys:
            key.pair.sync()
        self._bad.sync()
        self.flush_folders()

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self._marks.close()
        self._digests.__exit__()
        for key in self._keys:
            key.pair.close()
        self._bad.close()


class _Marker:
    """Flushes and writes marks down in a thread, one after another: the workers need not wait for the disk."""

    def __init__(self, journal: Journal, sync: Callable[[], None], last: Mark | None) -> None:
        self._journal, self._sync = journal, sync
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="marks")
        self._pending: Future[None] | None = None
        self.last = last

    def write(self, mark: Mark) -> None:
        """Begin to flush what the files hold now, and more; write the mark once it is on the disk."""
        self.wait()
        self._pending = self._thread.submit(self._write, mark)

    def wait(self) -> None:
        """Until the last mark is on the disk."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, whatever comes of it."""
        self._thread.shutdown()

    def _write(self, mark: Mark) -> None:
        reach("preprocess.before_flush")
        self._sync()
        reach("preprocess.before_mark")
        self._journal.append(mark)
        self.last = mark
        reach("preprocess.after_mark")
