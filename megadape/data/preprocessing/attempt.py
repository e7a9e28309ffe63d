"""Work that may have been begun before: whether it is gone on with, and what is kept of it when it ends early."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from megadape.data.preprocessing.copying import DamagedWorkError
from megadape.data.preprocessing.identity import find_difference
from megadape.data.preprocessing.journal import Journal, Mark
from megadape.errors import DataError, MegadapeError
from megadape.faults import reach

_log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal that is treated like it; says what is kept of the work."""


@dataclass(frozen=True)
class Attempt:
    """One go at a piece of work.

    Args:
        name: what messages call the work.
        journal: of the work.
        identify: says what the work is (see ``identity``).
        resume: whether what is left over is gone on with; None refuses to choose.
        place: a mark in words.
        discard: removes everything that is left over.
        apart_from: what may differ between what is left over and what is asked for.
    """

    name: str
    journal: Journal
    identify: Callable[[], dict[str, object]]
    resume: bool | None
    place: Callable[[Mark], str]
    discard: Callable[[], None]
    apart_from: Collection[str] = ()

    def left_over(self) -> Mark | None:
        """Where a run that ended early stopped, when its work is to be gone on with."""
        mark = self.journal.read()
        if mark is None:
            return None
        place = f"{self.name}: an unfinished preprocessing is there, {self.place(mark)}"
        if self.resume is None:
            raise DataError(
                f"{place}: give --resume to go on with it, or --no-resume to start again (resume=True or False)"
            )
        if not self.resume:
            _log.info("%s: it is discarded", place)
            return None
        before, now = self.journal.identity() or {}, self.identify()
        difference = find_difference(before, now, met_bad_lines=mark.bad > 0, apart_from=self.apart_from)
        if difference is not None:
            raise DataError(
                f"{place}, but of other work: {difference}; give what was given then, or --no-resume to start again"
            )
        if before != now and not mark.complete:
            self.journal.restate(now)  # bad lines that are met from here on are treated as it says now
        return mark

    def begin(self) -> None:
        """From nothing."""
        self.discard()
        self.journal.begin(self.identify())
        reach("preprocess.after_plan")

    @contextmanager
    def saying_what_is_kept(self) -> Iterator[None]:
        """After an error or an interruption: keep what is marked, remove what is not, and say so."""
        try:
            yield
        except BaseException as error:
            mark = self.journal.read()
            said = f"{self.place(mark)}: --resume goes on from there" if mark is not None else "nothing was written"
            if mark is None:
                self.discard()
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(said) from error
            if mark is not None and isinstance(error, MegadapeError) and not isinstance(error, DamagedWorkError):
                raise type(error)(f"{error} ({said})") from error
            raise
