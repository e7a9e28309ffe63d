"""The runs of a study, sorted into panels: what is compared is of one size, one training length and one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite, isnan
from statistics import fmean, stdev

from megadape.errors import EvaluationError
from megadape.evaluation.figures.curves import Bands, Curves
from megadape.evaluation.results import Extrapolation, LengthResult
from megadape.evaluation.statistics import PairedComparison, adjust_comparisons, compare_pairs, pair_losses
from megadape.studies.results import CellResult, StudyResults


@dataclass(frozen=True)
class Group:
    """The runs of one size and training length."""

    size: str
    training_length: int
    cells: Mapping[str, Sequence[CellResult]]
    """By method, in the order of the study; by seed, increasing. Each method has at least one."""

    @property
    def name(self) -> str:
        """For headings."""
        return f"{self.size}, trained at {self.training_length}"

    @property
    def slug(self) -> str:
        """For names of files."""
        return f"{self.size}-{self.training_length}"


@dataclass(frozen=True)
class Panel:
    """The results of a group on one evaluation set."""

    group: Group
    dataset: str
    reference: str
    runs: Mapping[str, Mapping[int, Mapping[int, LengthResult]]]
    """Method -> seed -> length -> result."""
    mode: str

    @property
    def name(self) -> str:
        """For headings."""
        return f"{self.group.name}, evaluated on {self.dataset}"

    @property
    def slug(self) -> str:
        """For names of files."""
        return f"{self.group.slug}-{self.dataset}"

    @cached_property
    def lengths(self) -> list[int]:
        """All evaluation lengths, increasing."""
        return sorted({length for seeds in self.runs.values() for rows in seeds.values() for length in rows})

    def perplexities(self, method: str, length: int) -> list[float]:
        """Of every seed that has this length; one that is no number has diverged, and counts as infinite."""
        found = [rows[length].perplexity for rows in self.runs[method].values() if length in rows]
        return [inf if isnan(value) else value for value in found]

    @cached_property
    def means(self) -> Curves:
        """Mean perplexity over seeds."""
        return {
            method: {length: fmean(values) for length in self.lengths if (values := self.perplexities(method, length))}
            for method in self.runs
        }

    @cached_property
    def ranges(self) -> Bands:
        """Lowest and highest perplexity over seeds, where there are two at least."""
        return {
            method: {
                length: (min(values), max(values))
                for length in self.lengths
                if len(values := self.perplexities(method, length)) > 1
            }
            for method in self.runs
        }

    def deviation(self, method: str, length: int) -> float | None:
        """Standard deviation over seeds; None where there is none."""
        values = self.perplexities(method, length)
        return stdev(values) if len(values) > 1 and all(map(isfinite, values)) else None

    @cached_property
    def comparisons(self) -> Mapping[str, Mapping[int, PairedComparison]]:
        """The reference against each other method at each length that both have; adjusted over the lengths."""
        if self.reference not in self.runs:
            return {}
        others = [method for method in self.runs if method != self.reference]
        return {method: adjust_comparisons(self._family(method)) for method in others}

    def _family(self, method: str) -> dict[int, PairedComparison]:
        family = {}
        for length in self.lengths:
            first, second = (
                {seed: rows[length].sequence_losses for seed, rows in self.runs[name].items() if length in rows}
                for name in (self.reference, method)
            )
            if first and second:
                names = (f"{self.reference} at length {length}", f"{method} at length {length}")
                family[length] = compare_pairs(pair_losses(first, second, names))
        return family


def group_cells(results: StudyResults) -> list[Group]:
    """Small models first, short training lengths first; the same whatever the order of the cells."""
    weights: dict[str, int] = {}
    for cell in results.cells:
        weights[cell.size] = min(cell.parameters, weights.get(cell.size, cell.parameters))
    keys = sorted({(weights[cell.size], cell.size, cell.training_length) for cell in results.cells})
    groups = []
    for _, size, length in keys:
        members = [cell for cell in results.cells if (cell.size, cell.training_length) == (size, length)]
        cells = {
            method: sorted((cell for cell in members if cell.method == method), key=lambda cell: cell.seed)
            for method in results.methods
        }
        for method, own in cells.items():
            assert len({cell.seed for cell in own}) == len(own), f"{method} has a seed twice"
        assert {cell.method for cell in members} <= set(results.methods), "a method that the study does not name"
        groups.append(Group(size, length, {method: own for method, own in cells.items() if own}))
    return groups


def make_panels(group: Group, reference: str) -> list[Panel]:
    """One for each evaluation set of a group, by name.

    Raises:
        EvaluationError: one set was evaluated in several modes.
    """
    datasets = sorted({name for cells in group.cells.values() for cell in cells for name in cell.evaluations})
    panels = []
    for dataset in datasets:
        found: dict[str, dict[int, Extrapolation]] = {
            method: {
                cell.seed: cell.evaluations[dataset]
                for cell in cells
                if dataset in cell.evaluations and cell.evaluations[dataset].results
            }
            for method, cells in group.cells.items()
        }
        modes = sorted({run.mode for seeds in found.values() for run in seeds.values()})
        if len(modes) > 1:
            raise EvaluationError(
                f"{dataset} was evaluated in the modes {' and '.join(modes)} ({group.name}): evaluate all runs of a "
                "study with the same settings"
            )
        if not modes:
            continue
        runs = {
            method: {seed: {row.length: row for row in run.results} for seed, run in seeds.items()}
            for method, seeds in found.items()
            if seeds
        }
        panels.append(Panel(group, dataset, reference, runs, modes[0]))
    return panels
