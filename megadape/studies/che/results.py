"""What a CHE study has found: accuracies by task and method, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from megadape.chomsky import TASKS, Level
from megadape.chomsky.experiment import ExperimentResult, is_done, read_result
from megadape.studies.che.grid import CheStudy

LEVELS: Mapping[Level, str] = {"regular": "R", "context-free": "DCF", "context-sensitive": "CS"}
"""Level -> the paper's name of it."""


@dataclass(frozen=True)
class Spread:
    """A value over seeds."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None of one seed."""
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values))

    def percent(self) -> str:
        """As 93.1 ± 0.4."""
        deviation = "" if self.deviation is None else f" \N{PLUS-MINUS SIGN} {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{deviation}"


@dataclass(frozen=True)
class CheResults:
    """What is done of a study."""

    study: CheStudy
    found: Mapping[tuple[str, str], Sequence[ExperimentResult]]
    """(task, method) -> one result a finished seed."""
    missing: Sequence[str]
    """Names of the experiments that are not done."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of the paper's table: by level."""
        return tuple(task for task in TASKS if task in self.study.settings.tasks)

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order of the study file."""
        return tuple(self.study.settings.methods)

    @property
    def all(self) -> list[ExperimentResult]:
        """Every result."""
        return [result for results in self.found.values() for result in results]

    def chance(self, task: str) -> float:
        """Accuracy of a guess."""
        return TASKS[task]().chance

    def accuracies(self, task: str, *, trained: bool = False) -> dict[str, Spread]:
        """Method -> accuracy over seeds, beyond the training lengths or at them."""
        return {
            method: Spread.of([each.training_accuracy if trained else each.accuracy for each in results])
            for method in self.methods
            if (results := self.found.get((task, method)))
        }

    def by_length(self, task: str, method: str) -> dict[int, Spread]:
        """Length -> accuracy over seeds, at the training lengths and beyond."""
        values: dict[int, list[float]] = {}
        for result in self.found.get((task, method), ()):
            for each in (*result.training_scores, *result.scores):
                values.setdefault(each.length, []).append(each.accuracy)
        return {length: Spread.of(values[length]) for length in sorted(values)}

    def majorities(self, task: str) -> dict[int, float]:
        """Length -> accuracy of always saying the commonest symbol; the strings are the same for all methods."""
        scored = [result for (name, _), results in self.found.items() if name == task for result in results]
        return {
            each.length: each.majority for result in scored[:1] for each in (*result.training_scores, *result.scores)
        }


def best_of(accuracies: Mapping[str, Spread]) -> set[str]:
    """Methods whose mean is highest, as the table shows it; none where there is no other to compare with."""
    if len(accuracies) < 2:
        return set()
    shown = {method: round(100 * spread.mean, 1) for method, spread in accuracies.items()}
    return {method for method, value in shown.items() if value == max(shown.values())}


def gather(study: CheStudy) -> CheResults:
    """Read what is done; ``EvaluationError`` where a result is damaged."""
    found: dict[tuple[str, str], list[ExperimentResult]] = {}
    missing = []
    for cell in study.cells:
        if is_done(cell.experiment, cell.folder):
            found.setdefault((cell.task, cell.method), []).append(read_result(cell.folder))
        else:
            missing.append(cell.name)
    return CheResults(study, found, missing)
