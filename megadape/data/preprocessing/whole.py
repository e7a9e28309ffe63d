"""A preprocessing that one process does alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from megadape.data.manifest import DatasetManifest
from megadape.data.preprocessing.attempt import Attempt
from megadape.data.preprocessing.datasets import Datasets, require_text
from megadape.data.preprocessing.finished import find_finished
from megadape.data.preprocessing.identity import identify
from megadape.data.preprocessing.journal import Mark
from megadape.data.preprocessing.making import Report, worked_off
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.reading.plan import Plan
from megadape.data.reading.shares import Share
from megadape.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WholePreprocessing:
    """All of a corpus, from the plan to the datasets."""

    settings: PreprocessSettings
    plan: Plan
    datasets: Datasets

    def run(self, report: Report) -> dict[str, DatasetManifest]:
        """Begin, or go on, or find that there is nothing to do."""
        settings, plan, datasets = self.settings, self.plan, self.datasets
        if settings.resume and not plan.repeatable:
            raise DataError("standard input cannot be read a second time: leave --resume out")
        attempt = self._attempt()
        mark = attempt.left_over()
        if mark is None:
            if settings.resume and (done := find_finished(settings, plan, datasets.tokenizer, datasets.prefixes)):
                _log.info("%s is complete and newer than its inputs: nothing to do", settings.prefix)
                datasets.discard()
                return done
        else:
            _log.info("%s: going on, %s", settings.prefix, self._place(mark))
        if mark is None or not mark.complete:
            with attempt.saying_what_is_kept():
                if mark is None:
                    self._warn()
                    attempt.begin()
                self._work(mark, report)
        manifests = datasets.publish()
        datasets.discard()
        return manifests

    def _work(self, mark: Mark | None, report: Report) -> None:
        """Everything up to complete files in their folders."""
        datasets, share = self.datasets, Share.whole(self.plan)
        with worked_off(
            self.settings,
            share,
            datasets.tokenizer,
            datasets.folders,
            datasets.quarantine,
            datasets.stagings,
            mark,
            report,
        ) as work:
            require_text(work.progress, self.plan)
            datasets.complete(work.finish(), share.stop)
            report(work.progress)

    def _attempt(self) -> Attempt:
        settings, datasets = self.settings, self.datasets
        return Attempt(
            name=str(settings.prefix),
            journal=datasets.journal,
            identify=lambda: identify(settings, self.plan, datasets.tokenizer),
            resume=settings.resume,
            place=self._place,
            discard=datasets.discard,
        )

    def _place(self, mark: Mark) -> str:
        if mark.complete:
            return "complete but for its last step"
        return f"{mark.shard} of {len(self.plan.shards)} shards done"

    def _warn(self) -> None:
        if not self.plan.repeatable:
            _log.info("standard input cannot be read again: this run cannot be resumed when it is killed")
