"""Making one part of the datasets."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from megadape.data.preprocessing.attempt import Attempt
from megadape.data.preprocessing.finished import find_finished
from megadape.data.preprocessing.identity import identify, identify_part
from megadape.data.preprocessing.journal import NAME as JOURNAL
from megadape.data.preprocessing.journal import Journal, Mark
from megadape.data.preprocessing.making import Report, worked_off
from megadape.data.preprocessing.parts import BAD_RECORDS, Part, key_name, part_staging, parts_folder
from megadape.data.preprocessing.planning import plan_parts
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.preprocessing.staging import Staging
from megadape.data.reading.shares import Share, divide
from megadape.data.tokenizers import Tokenizer
from megadape.faults import reach

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MadePart:
    """A part that is complete."""

    name: str
    share: Share
    mark: Mark | None
    """Its last; None when the datasets that it would be a part of are there already."""

    def summary(self) -> str:
        """What it holds, in a few words."""
        if self.mark is None:
            return f"{self.name} has nothing to do: all is merged, complete, and newer than the inputs"
        shards = len(self.share.plan.shards)
        if not len(self.share):
            return f"{self.name} has nothing to do: the inputs make {shards} shards, fewer than parts"
        tokens = sum(key.tokens for key in self.mark.keys)
        return (
            f"{self.name} is complete: {len(self.share)} of {shards} shards, "
            f"{self.mark.keys[0].documents:,} documents, {tokens:,} tokens, {self.mark.bad:,} bad records"
        )


def make_part(settings: PreprocessSettings, part: Part, report: Report) -> MadePart:
    """Begin, or go on, or find that the part is complete."""
    settings, plan = plan_parts(settings, part.of)
    share = divide(plan, part.of)[part.number - 1]
    tokenizer = settings.tokenizer.build()
    try:
        with part_staging(settings, part) as staging:
            if (
                settings.resume
                and not staging.files()
                and find_finished(settings, plan, tokenizer, settings.datasets())
            ):
                return MadePart(f"{part} of {settings.prefix}", share, None)
            return _make(settings, part, share, tokenizer, staging, report)
    finally:
        with suppress(OSError):  # other parts are there
            parts_folder(settings).rmdir()


def _make(
    settings: PreprocessSettings, part: Part, share: Share, tokenizer: Tokenizer, staging: Staging, report: Report
) -> MadePart:
    name, journal = f"{part} of {settings.prefix}", Journal(staging.folder)
    attempt = Attempt(
        name=name,
        journal=journal,
        identify=lambda: identify_part(identify(settings, share.plan, tokenizer), str(part), share),
        resume=settings.resume is not False,
        place=partial(_place, share),
        discard=lambda: staging.discard(first=JOURNAL),
        apart_from=("max_bad_lines",),
    )
    mark = attempt.left_over()
    if mark is not None:
        _log.info("%s: %s, %s", name, "nothing to do" if mark.complete else "going on", _place(share, mark))
    if mark is None or not mark.complete:
        with attempt.saying_what_is_kept():
            if mark is None:
                attempt.begin()
            folders = [(staging.folder, key_name(number)) for number in range(len(settings.json_keys))]
            quarantine = staging.folder / BAD_RECORDS
            with worked_off(settings, share, tokenizer, folders, quarantine, [staging], mark, report) as work:
                journal.append(work.finish_part())
                reach("preprocess.after_complete")
                report(work.progress)
        mark = journal.read()
        assert mark is not None, "what was just written is there"
    return MadePart(name, share, mark)


def _place(share: Share, mark: Mark) -> str:
    return "made and not merged" if mark.complete else f"{mark.shard - share.start} of {len(share)} shards done"
