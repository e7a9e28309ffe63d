"""What ``megadape study report`` does: gather what is done, look at the heads of the reference, write the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megadape.console import Bars
from megadape.evaluation.head_profiles import HeadProfile
from megadape.evaluation.heads import head_profiles
from megadape.evaluation.sets import open_text, text_sources
from megadape.studies.gather import gather
from megadape.studies.grid import Cell, Study
from megadape.studies.report.study import write_study_report
from megadape.studies.results import StudyResults


def report_study(study: Study, out: Path | None, bars: Bars) -> list[Path]:
    """Write the report of what is done so far; return the files.

    Raises:
        EvaluationError: nothing is done yet, or a file cannot be written.
    """
    bars.update("gathering", 0, 2)
    results = gather(study)
    bars.update("gathering", 1, 2, f"heads of {results.reference}")
    profiles = reference_profiles(study, results)
    bars.update("gathering", 2, 2)
    return write_study_report(results, profiles, out or study.settings.folder / "report")


def reference_profiles(study: Study, results: StudyResults) -> dict[str, Sequence[HeadProfile]]:
    """The heads of the reference, of its first run that is done at each size and training length."""
    done = {cell.run_dir for cell in results.cells if cell.method == results.reference}
    firsts: dict[str, Cell] = {}
    for cell in study.cells:
        if cell.run_dir in done:
            firsts.setdefault(f"{cell.method}, {cell.size}, trained at {cell.training_length}", cell)
    return {f"{name}, seed {cell.seed}": cell_profiles(cell) for name, cell in firsts.items()}


def cell_profiles(cell: Cell) -> Sequence[HeadProfile]:
    """The heads of one run, on the first evaluation set."""
    source = text_sources(cell.run.evaluation, cell.run.data)[0]
    text = open_text(source.data, cell.run.evaluation, source.split)
    return head_profiles(cell.run_dir, text.stream)
