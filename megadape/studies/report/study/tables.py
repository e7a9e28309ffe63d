"""The tables of a study's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megadape.evaluation.head_profiles import HeadProfile, count_kinds, head_trends
from megadape.evaluation.statistics import LEVEL, Interval, PairedComparison
from megadape.studies.report.blocks import Table
from megadape.studies.report.comparison import best_of
from megadape.studies.report.elements import Cell
from megadape.studies.report.study.costs import Cost
from megadape.studies.report.study.numbers import ABSENT, decimal, format_mean, format_p, signed
from megadape.studies.report.study.panels import Panel
from megadape.studies.results import Missing

BETTER, WORSE = "\N{DAGGER}", "\N{DOUBLE DAGGER}"
"""Behind a value of another method: the reference is better, or worse, than it."""

MARKS = {"better": BETTER, "worse": WORSE, "undecided": ""}


def length_table(panel: Panel) -> Table:
    """The paper's table: rows methods, columns lengths, mean ± deviation over seeds."""
    best = best_of(panel.means)
    head: list[Cell | str] = ["method", "n"]
    head += [
        Cell(str(length), note="trained" if length == panel.group.training_length else "") for length in panel.lengths
    ]
    rows = []
    for method, seeds in panel.runs.items():
        row: list[Cell | str] = [method, str(len(seeds))]
        row += [_length_cell(panel, method, length, (method, length) in best) for length in panel.lengths]
        rows.append(row)
    return Table(head, rows)


def comparison_table(panel: Panel, lengths: Sequence[int]) -> Table:
    """The reference against every other method, in full, at some lengths."""
    head = ["method", "length", "seeds", "texts", "difference", "95% interval", "perplexity ratio", "d_z", "g"]
    head += ["exact p", "adjusted p", "bootstrap 95%"]
    chosen = [
        (method, length, family[length])
        for method, family in panel.comparisons.items()
        for length in lengths
        if length in family
    ]
    reasons = any(comparison.reason for _, _, comparison in chosen)
    rows = [
        [method, str(length), *_comparison_cells(comparison), *([comparison.reason] if reasons else [])]
        for method, length, comparison in chosen
    ]
    return Table([*head, "why not"] if reasons else head, rows)


def cost_table(costs: Mapping[str, Cost]) -> Table:
    """What training took, a row a method."""
    head = ["method", "runs", "parameters", "FLOPs a token", "steps", "seconds a run", "tokens/s", "times the cheapest"]
    rows = [
        [
            method,
            str(cost.runs),
            f"{cost.parameters:,}",
            ABSENT if cost.flops_per_token is None else f"{cost.flops_per_token:.3g}",
            f"{cost.steps:,}",
            f"{cost.seconds:,.0f}",
            f"{cost.tokens_per_second:,.0f}",
            ABSENT if cost.relative is None else f"{cost.relative:.2f}",
        ]
        for method, cost in costs.items()
    ]
    return Table(head, rows)


def kinds_table(profiles: Sequence[HeadProfile]) -> Table:
    """How many heads of each layer are local and anti-local, and of all layers together."""
    counts = count_kinds(head_trends(profiles))
    fields = ["heads", "local", "anti_local", "correction_local", "correction_anti_local"]
    rows = [[str(count.layer), *(str(getattr(count, field)) for field in fields)] for count in counts]
    rows.append(["all", *(str(sum(getattr(count, field) for count in counts)) for field in fields)])
    return Table(["layer", "heads", "local", "anti-local", "correction local", "correction anti-local"], rows)


def missing_table(missing: Sequence[Missing]) -> Table:
    """Runs without results."""
    return Table(["run", "state", "reason"], [[run.name, run.state, run.reason or ABSENT] for run in missing], 3)


def _length_cell(panel: Panel, method: str, length: int, best: bool) -> Cell:
    if length not in panel.means[method]:
        return Cell(ABSENT)
    comparison = panel.comparisons.get(method, {}).get(length)
    mark = MARKS[comparison.verdict(LEVEL)] if comparison is not None else ""
    return Cell(format_mean(panel.means[method][length], panel.deviation(method, length)), best, mark)


def _comparison_cells(comparison: PairedComparison) -> list[str]:
    ratio = comparison.perplexity_ratio
    return [
        str(comparison.seeds),
        str(comparison.sequences),
        signed(comparison.difference),
        _interval(comparison.interval),
        ABSENT if ratio is None else decimal(ratio),
        signed(comparison.effect, 2),
        signed(comparison.corrected_effect, 2),
        format_p(comparison.exact_p),
        format_p(comparison.adjusted_p),
        _interval(comparison.bootstrap),
    ]


def _interval(interval: Interval | None) -> str:
    return ABSENT if interval is None else f"{signed(interval.low)} to {signed(interval.high)}"
