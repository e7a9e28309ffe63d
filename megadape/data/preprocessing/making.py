"""Blocks to the workers, ids back: how a share of the corpus is worked off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from megadape.data.indexed_format import best_dtype
from megadape.data.preprocessing.encoding import Encoded, Task, make_encoder
from megadape.data.preprocessing.journal import Journal, Mark
from megadape.data.preprocessing.progress import Progress
from megadape.data.preprocessing.settings import PreprocessSettings
from megadape.data.preprocessing.staging import Staging
from megadape.data.preprocessing.work import Work
from megadape.data.preprocessing.workers import OrderedWorkers, start_method
from megadape.data.reading.contents import ReadOptions
from megadape.data.reading.shares import Share
from megadape.data.tokenizers import Tokenizer

Report = Callable[[Progress], None]


@contextmanager
def worked_off(
    settings: PreprocessSettings,
    share: Share,
    tokenizer: Tokenizer,
    folders: Sequence[tuple[Path, str]],
    quarantine: Path,
    stagings: Sequence[Staging],
    mark: Mark | None,
    report: Report,
) -> Iterator[Work]:
    """The work on a share with every block written, and to be finished.

    Args:
        settings: what to do.
        share: of the corpus.
        tokenizer: what makes ids of texts.
        folders: folder and name of the dataset of each key.
        quarantine: file of the bad records.
        stagings: whose locks no worker may hold on to; the journal is in the folder of the first.
        mark: from which to go on; None at the beginning.
        report: called after every block.
    """
    dtype = best_dtype(tokenizer.vocab_size)
    options = ReadOptions(settings.selection(), settings.max_line_bytes)
    count, method = settings.workers if len(share) else 1, start_method()
    anew = count > 1 and method == "spawn"
    make = make_encoder(settings.tokenizer, tokenizer, options, settings.append_eod, dtype, anew=anew)
    with (
        Work(settings, share, dtype, folders, quarantine, Journal(stagings[0].folder), mark) as work,
        OrderedWorkers[Task, Encoded](count, make, method, stagings) as workers,
    ):
        for encoded in workers.map(work.tasks()):
            work.add(encoded)
            report(work.progress)
        yield work
