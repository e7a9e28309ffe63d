"""From text files to an indexed dataset.

The inputs are divided into shards and blocks (``reading.plan``) that depend on nothing but the inputs. Workers read
blocks and make token ids of them; of a file that can only be read from its beginning (compressed, a JSON list) this
process unpacks the blocks. The results are written in order: the bytes are the same for any number of workers.

Everything grows in a hidden folder beside the prefix and appears whole or not at all. After every shard the files are
flushed and a mark is written; a run that was killed, at any moment, goes on behind the last mark and makes the same
bytes. Every record of the inputs is a document, bad, or passed over, and the manifest's numbers prove it.

Memory: in each worker a block of input (``block_bytes``; never more than the longest line beside it), its texts and
their ids; in this process the results that wait for an earlier one, at most 64 MiB and one result a worker, and about a
kilobyte for each input file. It does not grow with the number of documents.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from megadape.data.files import PathLike, reporting
from megadape.data.indexed_format import best_dtype
from megadape.data.manifest import (
    DatasetManifest,
    describe_tokenizer,
    encode_manifest,
    load_manifest,
    manifest_path,
    tokenizer_copies,
)
from megadape.data.preprocessing.arguments import preprocess_settings
from megadape.data.preprocessing.encoding import Encoded, Task, make_encoder
from megadape.data.preprocessing.finished import find_finished
from megadape.data.preprocessing.identity import find_difference, identify
from megadape.data.preprocessing.journal import NAME as JOURNAL
from megadape.data.preprocessing.journal import Journal, Mark
from megadape.data.preprocessing.outputs import output_files, own_files, protect_inputs, quarantine_path
from megadape.data.preprocessing.pair import DamagedWorkError
from megadape.data.preprocessing.progress import Progress
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.preprocessing.staging import Staging
from megadape.data.preprocessing.work import Outcome, Work
from megadape.data.preprocessing.workers import OrderedWorkers, start_method
from megadape.data.reading.contents import ReadOptions
from megadape.data.reading.plan import Plan, plan_corpus
from megadape.data.tokenizers import Tokenizer
from megadape.errors import DataError, MegadapeError
from megadape.faults import reach

__all__ = ["Interrupted", "PreprocessSettings", "Progress", "preprocess", "preprocess_files", "preprocess_keys"]

Report = Callable[[Progress], None]

_log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal that is treated like it; says what is kept of the work."""


def preprocess(settings: PreprocessSettings, progress: Report | None = None) -> DatasetManifest:
    """Write the dataset of the one JSON key (see ``preprocess_keys``); returns its manifest."""
    if len(settings.json_keys) > 1:
        raise DataError("several json_keys make several datasets: use preprocess_keys")
    return preprocess_keys(settings, progress)[settings.json_keys[0]]


def preprocess_keys(settings: PreprocessSettings, progress: Report | None = None) -> dict[str, DatasetManifest]:
    """Write ``PREFIX.bin``, ``.idx``, ``.json`` and copies of the tokenizer's files for every JSON key, in one pass.

    Args:
        settings: what to do.
        progress: called after every block.

    Returns:
        Key -> manifest.
    """
    datasets = settings.datasets()
    plan = plan_corpus(
        settings.inputs, settings.cut_options(), settings.text_suffixes, exclude=own_files(settings, datasets)
    )
    protect_inputs(settings, datasets, plan)
    tokenizer = settings.tokenizer.build()
    with ExitStack() as stack:
        stagings = [stack.enter_context(Staging(prefix)) for prefix in datasets.values()]
        return _Preprocessing(settings, datasets, plan, tokenizer, stagings).run(progress or _silent)


def preprocess_files(
    inputs: Sequence[PathLike],
    prefix: PathLike,
    *,
    tokenizer: str = "byte",
    tokenizer_options: dict[str, object] | None = None,
    json_key: str = "text",
    progress: Report | None = None,
    **options: object,
) -> DatasetManifest:
    """``preprocess`` from plain arguments, as a command line has them; every mistake in them is a ``DataError`` or
    ``TokenizerError``.

    Args:
        inputs: files, folders and globs.
        prefix: path of the dataset without its endings.
        tokenizer: kind of tokenizer.
        tokenizer_options: its settings, such as ``model``; None values are left out.
        json_key: key of the text in JSON objects.
        progress: called after every block.
        options: the other fields of ``PreprocessSettings``.
    """
    options = {"json_keys": (json_key,), **options}
    return preprocess(preprocess_settings(inputs, prefix, tokenizer, tokenizer_options or {}, **options), progress)


@dataclass(frozen=True)
class _Preprocessing:
    """One preprocessing, with the folders of its datasets locked."""

    settings: PreprocessSettings
    datasets: Mapping[str, Path]
    plan: Plan
    tokenizer: Tokenizer
    stagings: Sequence[Staging]

    def run(self, report: Report) -> dict[str, DatasetManifest]:
        """Begin, or go on, or find that there is nothing to do."""
        journal = Journal(self.stagings[0].folder)
        mark = self._left_over(journal)
        if mark is None:
            if self.settings.resume and (
                done := find_finished(self.settings, self.plan, self.tokenizer, self.datasets)
            ):
                _log.info("%s is complete and newer than its inputs: nothing to do", self.settings.prefix)
                self._discard()
                return done
        else:
            _log.info("%s: going on, %s", self.settings.prefix, self._place(mark))
        if mark is None or not mark.complete:
            with self._saying_what_is_kept(journal):
                self._work(journal, mark, report)
        return self._publish()

    def _left_over(self, journal: Journal) -> Mark | None:
        """Where a killed run stopped, when its work is to be gone on with."""
        wanted = self.settings.resume
        if wanted and not self.plan.repeatable:
            raise DataError("standard input cannot be read a second time: leave --resume out")
        mark = journal.read()
        if mark is None:
            return None
        place = f"{self.settings.prefix}: an unfinished preprocessing is there, {self._place(mark)}"
        if wanted is None:
            raise DataError(
                f"{place}: give --resume to go on with it, or --no-resume to start again (resume=True or False)"
            )
        if not wanted:
            _log.info("%s: it is discarded", place)
            return None
        now = identify(self.settings, self.plan, self.tokenizer)
        difference = find_difference(journal.identity() or {}, now, met_bad_lines=mark.bad > 0)
        if difference is not None:
            raise DataError(
                f"{place}, but of other work: {difference}; give what was given then, or --no-resume to start again"
            )
        return mark

    def _place(self, mark: Mark) -> str:
        if mark.complete:
            return "complete but for its last step"
        return f"{mark.shard} of {len(self.plan.shards)} shards done"

    def _begin(self, journal: Journal) -> None:
        self._discard()
        if not self.plan.repeatable:
            _log.info("standard input cannot be read again: this run cannot be resumed when it is killed")
        journal.begin(identify(self.settings, self.plan, self.tokenizer))
        reach("preprocess.after_plan")

    def _work(self, journal: Journal, mark: Mark | None, report: Report) -> None:
        """Everything up to complete files in their folders."""
        if mark is None:
            self._begin(journal)
        settings, dtype = self.settings, best_dtype(self.tokenizer.vocab_size)
        options = ReadOptions(settings.selection(), settings.max_line_bytes)
        method = start_method()
        anew = settings.workers > 1 and method == "spawn"
        make = make_encoder(settings.tokenizer, self.tokenizer, options, settings.append_eod, dtype, anew=anew)
        folders = [(staging.folder, staging.prefix.name) for staging in self.stagings]
        quarantine = self.stagings[0].path(quarantine_path(settings.prefix))
        with (
            Work(settings, self.plan, dtype, folders, quarantine, journal, mark) as work,
            OrderedWorkers[Task, Encoded](settings.workers, make, method, self.stagings) as workers,
        ):
            for encoded in workers.map(work.tasks()):
                work.add(encoded)
                report(work.progress)
            if not work.progress.text_bytes:
                raise DataError(_nothing(work.progress, self.plan))
            outcome = work.finish()
            reach("preprocess.before_manifest")
            self._describe(outcome)
            work.flush_folders()
            journal.append(Mark(shard=len(self.plan.shards), complete=True))
            reach("preprocess.after_complete")
            report(work.progress)

    @contextmanager
    def _saying_what_is_kept(self, journal: Journal) -> Iterator[None]:
        """After an error or an interruption: keep what is marked, remove what is not, and say so."""
        try:
            yield
        except BaseException as error:
            mark = journal.read()
            kept = mark is not None
            said = f"{self._place(mark)}: --resume goes on from there" if mark is not None else "nothing was written"
            if not kept:
                self._discard()
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(said) from error
            if kept and isinstance(error, MegadapeError) and not isinstance(error, DamagedWorkError):
                raise type(error)(f"{error} ({said})") from error
            raise

    def _describe(self, outcome: Outcome) -> None:
        """Write the manifests and the copies of the tokenizer's files."""
        settings = self.settings
        quarantine = quarantine_path(settings.prefix).name if settings.on_bad_line == "quarantine" else None
        for number, (key, prefix) in enumerate(self.datasets.items()):
            pair, staging = outcome.pairs[number], self.stagings[number]
            assert pair.documents == outcome.documents, "every document is in the dataset"
            manifest = DatasetManifest(
                tokenizer=describe_tokenizer(self.tokenizer, settings.tokenizer, prefix),
                documents=pair.documents,
                empty_documents=outcome.empty[number],
                tokens=pair.tokens,
                text_bytes=outcome.text_bytes[number],
                dtype=best_dtype(self.tokenizer.vocab_size).name,
                append_eod=settings.append_eod,
                json_key=key,
                where=settings.where,
                document_separator=settings.document_separator,
                max_line_bytes=settings.max_line_bytes,
                records=outcome.documents + outcome.bad + outcome.passed_over,
                bad=outcome.bad,
                passed_over=outcome.passed_over,
                on_bad_line=settings.on_bad_line,
                quarantine=quarantine,
                sources=outcome.sources,
                undecodable=outcome.undecodable,
                bin_size=pair.bin_size,
                bin_sha256=pair.bin_sha256,
                idx_size=pair.idx_size,
                idx_sha256=pair.idx_sha256,
            )
            for field, path in tokenizer_copies(settings.tokenizer, prefix).items():
                source = settings.tokenizer.files()[field]
                with reporting("read", source):
                    staging.write(path, source.read_bytes())
            staging.write(manifest_path(prefix), encode_manifest(manifest))

    def _publish(self) -> dict[str, DatasetManifest]:
        """Give the files their names, and see that they are there; then the folders are emptied."""
        for prefix, staging in zip(self.datasets.values(), self.stagings, strict=True):
            first = [quarantine_path(self.settings.prefix)] if staging is self.stagings[0] else []
            staging.publish([*first, *output_files(self.settings, prefix)])
        manifests = {key: load_manifest(prefix) for key, prefix in self.datasets.items()}
        reach("preprocess.after_publish")
        self._discard()
        return manifests

    def _discard(self) -> None:
        """Empty the folders; the journal goes first, so that it never tells of files that are gone."""
        for staging in self.stagings:
            staging.discard(first=JOURNAL)


def _silent(progress: Progress) -> None:
    """Nobody asked."""


def _nothing(progress: Progress, plan: Plan) -> str:
    left_out = f", {progress.bad} records are bad" if progress.bad else ""
    left_out += f", {progress.passed_over} are passed over" if progress.passed_over else ""
    return f"the corpus is empty: {progress.documents} documents in {len(plan.sources)} sources hold no text{left_out}"
