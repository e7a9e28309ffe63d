"""Methods side by side: what was measured, which is best, and how it is told to terminals and programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from megadape.errors import EvaluationError
from megadape.evaluation.figures.curves import Curves, check_curves, lengths_of
from megadape.evaluation.figures.labels import format_value

MODE_NOTES = {
    "fixed_target": "the same target tokens are scored for every method and length, with ever more text before them",
    "last_k": "sequences of each length, the last predictions of each scored",
    "all": "sequences of each length, every prediction scored",
}
"""Evaluation mode -> what it means."""

BEST = "*"
"""Put before the best value of a column where there is no bold type."""


@dataclass(frozen=True)
class MethodResult:
    """What one method reached, and what its training took."""

    name: str
    perplexity: Mapping[int, float]
    """By evaluation length."""
    bits_per_byte: Mapping[int, float]
    """By evaluation length."""
    train_seconds: float
    parameters: int
    steps: int
    final_loss: float
    """Training loss at the last step, nats per token."""


@dataclass(frozen=True)
class DemoReport:
    """Everything that the report says."""

    title: str
    summary: Sequence[str]
    """Sentences, one paragraph each."""
    methods: tuple[MethodResult, ...]
    training_length: int
    figures: Sequence[tuple[str, Path]] = ()
    """Captions and pictures (.png or .svg)."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Label -> value: the text, the model, versions, the command."""
    mode: str = "fixed_target"

    @property
    def perplexity(self) -> Curves:
        """Method -> length -> perplexity."""
        return {method.name: method.perplexity for method in self.methods}

    @property
    def bits_per_byte(self) -> Curves:
        """Method -> length -> bits per byte."""
        return {method.name: method.bits_per_byte for method in self.methods}


def comparison_rows(report: DemoReport) -> tuple[list[str], list[list[str]]]:
    """Columns and rows for a terminal: method, perplexity at each length (the best marked), seconds, parameters.

    Raises:
        EvaluationError: nothing to compare, or a value that is no number.
    """
    return compare(report, lambda text: f"{BEST}{text}")


def results_json(report: DemoReport) -> dict[str, Any]:
    """Everything measured, for programs: ``methods`` -> name -> ``perplexity`` by length, and so on.

    Lengths are strings, as JSON's keys are. An infinite value is None: JSON has no infinity.

    Raises:
        EvaluationError: as ``comparison_rows``.
    """
    check_report(report)
    return {
        "training_length": report.training_length,
        "mode": report.mode,
        "methods": {
            method.name: {
                "perplexity": _by_length(method.perplexity),
                "bits_per_byte": _by_length(method.bits_per_byte),
                "train_seconds": method.train_seconds,
                "parameters": method.parameters,
                "steps": method.steps,
                "final_loss": method.final_loss if isfinite(method.final_loss) else None,
            }
            for method in report.methods
        },
        "facts": dict(report.facts),
    }


def compare(
    report: DemoReport, mark: Callable[[str], str], text: Callable[[str], str] = str
) -> tuple[list[str], list[list[str]]]:
    """The table of methods; ``mark`` shows the best of a column, ``text`` makes a name safe."""
    check_report(report)
    lengths = lengths_of(report.perplexity)
    best = best_of(report.perplexity)
    rows = [
        [
            text(method.name),
            *(
                (mark if (method.name, length) in best else str)(format_cell(method.perplexity, length))
                for length in lengths
            ),
            format_seconds(method.train_seconds),
            f"{method.parameters:,}",
        ]
        for method in report.methods
    ]
    return ["method", *map(str, lengths), "train s", "parameters"], rows


def best_of(curves: Curves) -> set[tuple[str, int]]:
    """(method, length) of the lowest values; none where there is no other method to compare with."""
    best = set()
    for length in lengths_of(curves):
        values = {method: curve[length] for method, curve in curves.items() if length in curve}
        lowest = min(values.values())
        if len(values) > 1 and isfinite(lowest):
            best |= {(method, length) for method, value in values.items() if value == lowest}
    return best


def format_cell(curve: Mapping[int, float], length: int, decimals: int = 2) -> str:
    """A value of a table; a dash where there is none."""
    return format_value(curve[length], decimals) if length in curve else "\N{EN DASH}"


def format_seconds(seconds: float) -> str:
    """Seconds without a unit, for a column."""
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"


def describe_mode(report: DemoReport) -> str:
    """How the numbers came about, in sentences."""
    return (
        f"All methods were trained at length {report.training_length}. "
        f"Evaluation mode {report.mode}: {MODE_NOTES[report.mode]}. "
        "Lower is better; the best at each length is marked."
    )


def check_report(report: DemoReport) -> None:
    """Refuse a report that cannot be shown.

    Raises:
        EvaluationError: no method, a method without results, or a value that is no number.
    """
    assert len({method.name for method in report.methods}) == len(report.methods), "two methods of one name"
    assert report.mode in MODE_NOTES, report.mode
    check_curves(report.perplexity)
    check_curves(report.bits_per_byte)
    for method in report.methods:
        if isnan(method.final_loss):
            raise EvaluationError(f"the training loss of {method.name} is not a number: its training diverged")


def _by_length(curve: Mapping[int, float]) -> dict[str, float | None]:
    return {str(length): curve[length] if isfinite(curve[length]) else None for length in sorted(curve)}
