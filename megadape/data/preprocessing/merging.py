"""Parts merged into the datasets: what one process would have written, copied together from what many have made.

After every part, or some of them when they are small, the files are flushed and a mark is written; a merge that was
killed goes on there. The parts are removed when the datasets have their names, and not before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from megadape.data.manifest import DatasetManifest
from megadape.data.preprocessing.attempt import Attempt
from megadape.data.preprocessing.datasets import Datasets, require_text
from megadape.data.preprocessing.finished import find_finished
from megadape.data.preprocessing.finished_parts import (
    FinishedPart,
    any_part,
    finished_parts,
    remove_parts,
)
from megadape.data.preprocessing.identity import identify
from megadape.data.preprocessing.journal import Mark
from megadape.data.preprocessing.making import Report
from megadape.data.preprocessing.merged_files import MergedFiles
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.reading.plan import Plan
from megadape.data.reading.shares import divide
from megadape.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merging:
    """All parts of a corpus, from their folders to the datasets."""

    settings: PreprocessSettings
    plan: Plan
    datasets: Datasets
    count: int

    def run(self, report: Report) -> dict[str, DatasetManifest]:
        """Begin, or go on, or find that there is nothing to do."""
        settings, datasets = self.settings, self.datasets
        attempt = self._attempt()
        mark = attempt.left_over()
        if mark is None and (done := self._finished()):
            _log.info("%s is complete, newer than its inputs, and has no parts: nothing to do", settings.prefix)
            return done
        if mark is None or not mark.complete:
            identity = identify(settings, self.plan, datasets.tokenizer)
            parts = finished_parts(settings, divide(self.plan, self.count), identity)
            self._require_few_bad_lines(parts)
            with attempt.saying_what_is_kept():
                if mark is None:
                    attempt.begin()
                self._work(parts, mark, report)
        manifests = datasets.publish()
        remove_parts(settings, self.count)
        datasets.discard()
        return manifests

    def _work(self, parts: Sequence[FinishedPart], mark: Mark | None, report: Report) -> None:
        """Everything up to complete files in their folders."""
        with MergedFiles(self.datasets, parts, mark) as merged:
            require_text(merged.total, self.plan)
            for part in parts[merged.count :]:
                merged.add(part)
                report(merged.progress())
            outcome = merged.finish()
            assert [source.path for source in outcome.sources] == [source.name for source in self.plan.sources]
            self.datasets.complete(outcome, self.count)
            report(merged.progress(done=True))

    def _require_few_bad_lines(self, parts: Sequence[FinishedPart]) -> None:
        most, bad = self.settings.max_bad_lines, sum(one.mark.bad for one in parts)
        if most is not None and bad > most:
            where = ", ".join(f"{one.mark.bad} in part {one.part.number}" for one in parts if one.mark.bad)
            raise DataError(
                f"more than max_bad_lines ({most}) bad lines: the parts have {bad} together ({where}); merge them with "
                "a higher number, or mend the inputs and make the parts again"
            )

    def _attempt(self) -> Attempt:
        settings, datasets = self.settings, self.datasets
        work = f"the merging of {self.count} parts"
        return Attempt(
            name=str(settings.prefix),
            journal=datasets.journal,
            identify=lambda: identify(settings, self.plan, datasets.tokenizer, work),
            resume=settings.resume is not False,
            place=self._place,
            discard=datasets.discard,
            apart_from=("max_bad_lines",),
        )

    def _place(self, mark: Mark) -> str:
        return "complete but for its last step" if mark.complete else f"{mark.shard} of {self.count} parts merged"

    def _finished(self) -> dict[str, DatasetManifest] | None:
        """What an earlier merge has written, when no part was made since."""
        if self.settings.resume is False or any_part(self.settings, self.count):
            return None
        return find_finished(self.settings, self.plan, self.datasets.tokenizer, self.datasets.prefixes)
