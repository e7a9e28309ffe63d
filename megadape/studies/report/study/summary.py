"""What a study found, in sentences made from its numbers: what is best, by how much, and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from megadape.evaluation.head_profiles import TREND, HeadProfile, count_kinds, head_trends
from megadape.evaluation.statistics import (
    LEVEL,
    MOST_ENUMERATED,
    PairedComparison,
    can_decide,
    describe_power,
    seeds_needed,
    smallest_p,
)
from megadape.studies.report.comparison import MODE_NOTES
from megadape.studies.report.study.numbers import counted, decimal, format_mean, format_p, listed, signed
from megadape.studies.report.study.panels import Panel
from megadape.studies.report.study.tables import BETTER, WORSE
from megadape.studies.results import StudyResults

COST_NOTE = (
    "Seconds a run: mean over the runs, with whatever else the machine did meanwhile; tokens/s: median over the steps "
    "of a run, then over the runs. Times the cheapest: time a token, relative to the fastest method."
)


def describe_study(results: StudyResults) -> str:
    """What was done, and whether it is whole."""
    cells = results.cells
    sizes = counted(len({cell.size for cell in cells}), "size")
    lengths = sorted({cell.training_length for cell in cells})
    seeds = counted(len({cell.seed for cell in cells}), "seed")
    methods = counted(len({cell.method for cell in cells}), "method")
    done = (
        f"{methods}, {sizes}, trained at {listed([str(length) for length in lengths])}, {seeds}: "
        f"{counted(len(cells), 'run')} trained and evaluated"
        if cells
        else "no run is trained and evaluated yet"
    )
    left = f"; {counted(len(results.missing), 'run')} of the grid still without results, listed below"
    return f"{done}{left if results.missing else ''}."


def summarise_panel(panel: Panel) -> list[str]:
    """What one table says."""
    longest = panel.lengths[-1]
    sentences = [_best(panel, longest)]
    if panel.reference not in panel.runs:
        return [*sentences, f"{panel.reference}, which the others are compared with, has no results here yet."]
    sentences += _rival(panel, longest)
    if panel.comparisons:
        sentences.append(_verdicts(panel, longest))
        sentences += _all_lengths(panel)
    return sentences


def describe_table(panel: Panel) -> list[str]:
    """The legend of the paper's table."""
    sentences = [
        "Perplexity, mean ± standard deviation over n seeds; lower is better, the lowest mean of each length is bold. "
        f"Evaluation mode {panel.mode}: {MODE_NOTES.get(panel.mode, panel.mode)}."
    ]
    pairs = most_pairs(panel)
    if not panel.comparisons:
        return sentences
    if not can_decide(pairs, LEVEL):
        return [*sentences, f"No marks: {describe_power(pairs)}"]
    return [
        *sentences,
        f"{BETTER} {panel.reference} is better than this method at this length, {WORSE} it is worse: exact sign-flip "
        f"test of the differences in loss, paired by seed, two-sided, {counted(pairs, 'seed')}, p adjusted over the "
        f"lengths of each pair of methods (Benjamini and Hochberg) below {LEVEL:g}. Without a mark it is not decided; "
        f"a pair with fewer than {seeds_needed()} seeds never is.",
    ]


def describe_comparisons(panel: Panel) -> list[str]:
    """The legend of the paired comparisons."""
    pairs = most_pairs(panel)
    signs = "all changes of sign enumerated" if pairs <= MOST_ENUMERATED else "changes of sign drawn at random"
    return [
        f"Difference: loss of {panel.reference} minus loss of the method, nats a token, below 0 where "
        f"{panel.reference} is better; each seed gives one difference, the mean over the texts that both read. "
        "95% interval: paired t over seeds, for these texts. d_z: the mean difference in standard deviations of the "
        "seeds' differences (Cohen); g: d_z corrected for few seeds (Hedges). Exact p: sign-flip test over seeds, "
        f"two-sided, {signs}; adjusted p: over the lengths of each pair of methods (Benjamini and Hochberg). "
        "Bootstrap: seeds and texts drawn with replacement, percentiles; too narrow with few seeds.",
        f"As for what the test can show: {describe_power(pairs)}{_adjusted_reach(panel, pairs)}",
    ]


def _adjusted_reach(panel: Panel, pairs: int) -> str:
    """What the adjustment asks for, where one length alone cannot be decided."""
    lengths = len(panel.lengths)
    needed = int(smallest_p(pairs) * lengths / LEVEL) + 1
    if not can_decide(pairs, LEVEL) or needed < 2:
        return ""
    return f" Adjusted over {lengths} lengths it does so only where at least {needed} of them show that smallest p."


def describe_heads(name: str, profiles: Sequence[HeadProfile]) -> str:
    """How many heads are local, in all layers together."""
    counts = count_kinds(head_trends(profiles))
    heads, local, anti, own, opposite = (
        sum(getattr(count, field) for count in counts)
        for field in ("heads", "local", "anti_local", "correction_local", "correction_anti_local")
    )
    return (
        f"Of {counted(heads, 'head')} of {name}, what is added to the scores (bias and correction) makes {local} local "
        f"and {anti} anti-local; the correction alone falls with distance in {own} and rises in {opposite}."
    )


def describe_measure(profiles: Sequence[HeadProfile]) -> str:
    """How heads were told apart."""
    queries = counted(min(trend.queries for trend in head_trends(profiles)), "query").replace("querys", "queries")
    return (
        "Local: what is added to the scores, static bias + correction, falls with distance; anti-local: it rises. "
        "Measured by Spearman's rank correlation with distance over bins half an octave wide, averaged over "
        f"{queries} a layer: local below {signed(-TREND, 1)}, anti-local above {signed(TREND, 1)}, neither in between. "
        "The last two columns measure the correction alone."
    )


def most_pairs(panel: Panel) -> int:
    """Seeds of the pair of methods that has most."""
    return max((one.seeds for family in panel.comparisons.values() for one in family.values()), default=0)


def _best(panel: Panel, length: int) -> str:
    curves = {method: curve[length] for method, curve in panel.means.items() if length in curve}
    order = sorted(curves, key=lambda method: curves[method])
    best = order[0]
    if not isfinite(curves[best]):
        return f"{panel.name}: no method has a finite perplexity at {length} tokens."
    count = len(panel.perplexities(best, length))
    value = format_mean(curves[best], panel.deviation(best, length))
    text = f"{panel.name}: at {length} tokens {best} has the lowest perplexity, {value} ({counted(count, 'seed')})"
    if len(order) < 2:
        return f"{text}."
    second = curves[order[1]]
    if not isfinite(second):
        return f"{text}; all others are infinite."
    return f"{text}, before {order[1]} with {format_mean(second, panel.deviation(order[1], length))}."


def _rival(panel: Panel, length: int) -> list[str]:
    """The reference against the best of the others, in numbers."""
    others = [method for method, family in panel.comparisons.items() if length in family]
    if not others or length not in panel.means[panel.reference]:
        return []
    rival = min(others, key=lambda method: panel.means[method][length])
    comparison = panel.comparisons[rival][length]
    start = f"{panel.reference} against {rival}, the best of the others there"
    if comparison.difference is None:
        return [f"{start}: not comparable, {comparison.reason}."]
    return [f"{start}: {_in_numbers(comparison)}."]


def _in_numbers(comparison: PairedComparison) -> str:
    assert comparison.difference is not None
    assert comparison.perplexity_ratio is not None
    lower = sum(value < 0 for value in comparison.seed_differences)
    parts = [f"{signed(comparison.difference)} nats a token"]
    if comparison.interval is not None:
        parts[0] += f" (95% interval {signed(comparison.interval.low)} to {signed(comparison.interval.high)})"
    parts.append(f"{decimal(comparison.perplexity_ratio)} times the perplexity")
    parts.append(f"lower with {lower} of {counted(comparison.seeds, 'seed')}")
    parts.append(f"exact p {format_p(comparison.exact_p)}, adjusted {format_p(comparison.adjusted_p)}")
    return ", ".join(parts)


def _verdicts(panel: Panel, length: int) -> str:
    """Over whom the reference is better at one length, as far as the test decides."""
    by_verdict: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
    for method, family in panel.comparisons.items():
        if length in family:
            by_verdict[family[length].verdict(LEVEL)].append(method)
    pairs = most_pairs(panel)
    if not can_decide(pairs, LEVEL):
        return f"How sure is that? {describe_power(pairs)[0].upper()}{describe_power(pairs)[1:]}"
    parts = [
        f"{words} {listed(by_verdict[verdict])}"
        for verdict, words in (("better", "better than"), ("worse", "worse than"), ("undecided", "undecided against"))
        if by_verdict[verdict]
    ]
    return (
        f"At {length} tokens {panel.reference} is {'; '.join(parts)} (exact paired test, adjusted p below {LEVEL:g})."
    )


def _all_lengths(panel: Panel) -> list[str]:
    if not can_decide(most_pairs(panel), LEVEL):
        return []
    verdicts = [one.verdict(LEVEL) for family in panel.comparisons.values() for one in family.values()]
    counts = {verdict: verdicts.count(verdict) for verdict in ("better", "worse", "undecided")}
    return [
        f"Over all lengths and methods, {panel.reference} is better in {counts['better']} of "
        f"{counted(len(verdicts), 'comparison')}, worse in {counts['worse']}, undecided in {counts['undecided']}."
    ]
