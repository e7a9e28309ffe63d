"""The parts of a preprocessing, found and looked over before they are merged.

Of each the folder is locked while it is looked at or copied, never of all at once: there may be more parts than files
that a process can have open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megadape.data.preprocessing.identity import find_difference, identify_part
from megadape.data.preprocessing.journal import NAME as JOURNAL
from megadape.data.preprocessing.journal import Journal, Mark
from megadape.data.preprocessing.parts import Part, all_parts, part_staging, parts_folder
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.preprocessing.staging import InUseError, Staging
from megadape.data.reading.ledger import Source
from megadape.data.reading.shares import Share
from megadape.errors import DataError

_NAMED = 10


@dataclass(frozen=True)
class FinishedPart:
    """A part that is complete."""

    part: Part
    staging: Staging
    mark: Mark
    """Its last, with all its finished sources."""

    @contextmanager
    def held(self) -> Iterator[Path]:
        """Its folder, locked; ``DataError`` when it was made again since it was looked over."""
        with self.staging as staging:
            if Journal(staging.folder).read() != self.mark:
                raise DataError(f"{self.part} has changed while parts are merged: merge again when nobody makes it")
            yield staging.folder


def finished_parts(
    settings: PreprocessSettings, shares: Sequence[Share], identity: Mapping[str, Any]
) -> list[FinishedPart]:
    """All parts; ``DataError`` names those that are not there, not complete, or made of other work.

    Args:
        settings: of the preprocessing.
        shares: of the corpus, one for each part.
        identity: what the work is that they are parts of.
    """
    found, wrong = [], []
    for part, share in zip(all_parts(len(shares)), shares, strict=True):
        try:
            found.append(_find(part, settings, identify_part(identity, str(part), share)))
        except _UnusableError as error:
            wrong.append((part, str(error)))
    if wrong:
        raise DataError(_explain(settings, wrong))
    return found


def any_part(settings: PreprocessSettings, count: int) -> bool:
    """Whether anything is there of the parts."""
    return any(part_staging(settings, part).folder.exists() for part in all_parts(count))


def remove_parts(settings: PreprocessSettings, count: int) -> None:
    """Remove all parts that are there."""
    for part in all_parts(count):
        staging = part_staging(settings, part)
        if staging.folder.exists():
            with staging:
                staging.discard(first=JOURNAL)
    with suppress(OSError):  # parts of another number of parts are there
        parts_folder(settings).rmdir()


def join_sources(marks: Sequence[Mark]) -> tuple[Source, ...]:
    """What became of the sources, each of which any number of parts have read, one after another."""
    joined: list[Source] = []
    before = (0, 0, 0)
    """Documents, passed over and bad of the source that the parts so far have not finished."""
    for mark in marks:
        for source in mark.finished:
            documents, passed_over, bad = before
            counted = {
                "records": source.records + sum(before),
                "documents": source.documents + documents,
                "passed_over": source.passed_over + passed_over,
                "bad": source.bad + bad,
            }
            joined.append(source.model_copy(update=counted))
            before = (0, 0, 0)
        _, documents, passed_over, bad = mark.account
        before = (before[0] + documents, before[1] + passed_over, before[2] + bad)
    assert before == (0, 0, 0), "every source ends in a part"
    return tuple(joined)


class _UnusableError(Exception):
    """Why a part cannot be merged."""


def _find(part: Part, settings: PreprocessSettings, now: Mapping[str, Any]) -> FinishedPart:
    staging = part_staging(settings, part)
    if not staging.folder.exists():
        raise _UnusableError("missing")
    journal = Journal(staging.folder)
    try:
        with staging:
            mark, before = journal.read(), journal.identity() or {}
    except InUseError as error:
        raise _UnusableError("being made") from error
    if mark is None:
        raise _UnusableError("missing")
    difference = find_difference(before, now, met_bad_lines=mark.bad > 0, apart_from=("max_bad_lines",))
    if difference is not None:
        raise _UnusableError(f"of other work ({difference}; to make it again add --no-resume)")
    if not mark.complete:
        raise _UnusableError("unfinished")
    return FinishedPart(part, staging, mark)


def _explain(settings: PreprocessSettings, wrong: Sequence[tuple[Part, str]]) -> str:
    count = wrong[0][0].of
    shown = [f"part {part.number} is {why}" for part, why in wrong[:_NAMED]]
    how = [f"--part {part.number}/{count}" for part, _ in wrong[:_NAMED]]
    more = len(wrong) - len(shown)
    if more:
        shown.append(f"{more} more are not there either")
        how.append("so on")
    return (
        f"{settings.prefix}: {len(wrong)} of {count} parts cannot be merged: {', '.join(shown)}; make them with the "
        f"same command and {', '.join(how)} in place of --merge-parts {count}, then merge again"
    )
