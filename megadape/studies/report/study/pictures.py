"""The figures of a study's report, each with its numbers in a CSV of the same name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import inf, isfinite, isnan
from pathlib import Path
from statistics import fmean

from megadape.errors import EvaluationError
from megadape.evaluation.figures import (
    draw_costs,
    draw_extrapolation,
    draw_heads,
    draw_passkey,
    draw_positions,
    write_heads_csv,
    write_passkey_csv,
    write_positions_csv,
)
from megadape.evaluation.head_profiles import HeadProfile
from megadape.evaluation.output import write_table
from megadape.evaluation.results import Passkey, PasskeyPlace, PositionLosses
from megadape.studies.report.blocks import Picture
from megadape.studies.report.study.costs import Cost
from megadape.studies.report.study.panels import Group, Panel


def curves_picture(panel: Panel, folder: Path) -> Picture:
    """Perplexity against length."""
    path = folder / f"curves-{slug_of(panel.slug)}.png"
    draw_extrapolation(panel.means, panel.group.training_length, path, bands=panel.ranges)
    rows = [
        [method, length, mean, *panel.ranges[method].get(length, (mean, mean)), len(panel.perplexities(method, length))]
        for method, curve in panel.means.items()
        for length, mean in curve.items()
    ]
    write_table(path.with_suffix(".csv"), ["method", "length", "mean", "lowest", "highest", "seeds"], rows)
    return Picture(
        f"Perplexity against evaluation length ({panel.name}): lines are means over seeds, bands reach from the lowest "
        "to the highest seed.",
        path,
        path.with_suffix(".csv"),
    )


def cost_picture(panel: Panel, costs: Mapping[str, Cost], folder: Path) -> Picture | None:
    """Perplexity at the longest length against time; None where no speed is known."""
    length = panel.lengths[-1]
    points = {
        method: (cost.relative, panel.means[method][length])
        for method, cost in costs.items()
        if cost.relative is not None and isfinite(cost.relative) and length in panel.means.get(method, {})
    }
    if not points:
        return None
    path = folder / f"cost-{slug_of(panel.slug)}.png"
    draw_costs(points, path, ylabel=f"perplexity at {length}")
    rows = [[method, time, value, costs[method].parameters] for method, (time, value) in points.items()]
    write_table(path.with_suffix(".csv"), ["method", "relative_time", f"perplexity_at_{length}", "parameters"], rows)
    return Picture(
        f"What quality costs ({panel.name}): perplexity at {length} tokens against the time that training takes for a "
        "token, relative to the cheapest method. Lower left is better.",
        path,
        path.with_suffix(".csv"),
    )


def positions_picture(group: Group, dataset: str, folder: Path) -> Picture:
    """Loss by position on one evaluation set."""
    losses = {
        method: mean_positions([cell.positions[dataset] for cell in cells if dataset in cell.positions], method)
        for method, cells in group.cells.items()
        if any(dataset in cell.positions for cell in cells)
    }
    path = folder / f"positions-{slug_of(f'{group.slug}-{dataset}')}.png"
    draw_positions(losses, group.training_length, path)
    write_positions_csv(losses, path.with_suffix(".csv"))
    longest = max(part.length for part in losses.values())
    return Picture(
        f"Loss by position in sequences of {longest} tokens fed whole ({group.name}, evaluated on {dataset}): means "
        "over seeds.",
        path,
        path.with_suffix(".csv"),
    )


def passkey_picture(group: Group, folder: Path) -> Picture | None:
    """Passkeys found; None where none were asked for."""
    found = {
        method: mean_passkey([cell.passkey for cell in cells if cell.passkey is not None])
        for method, cells in group.cells.items()
        if any(cell.passkey is not None for cell in cells)
    }
    if not found:
        return None
    path = folder / f"passkey-{slug_of(group.slug)}.png"
    draw_passkey(found, path)
    write_passkey_csv(found, path.with_suffix(".csv"))
    chance = 1 / next(iter(found.values())).candidates
    return Picture(
        f"Passkey retrieval ({group.name}): share of trials, over seeds, in which the right key is the likeliest of "
        f"the candidates (chance {chance:.0%}), and in which greedy decoding writes it out; by length and by depth in "
        "the text, 0% its beginning. The training length is bold.",
        path,
        path.with_suffix(".csv"),
    )


def heads_picture(name: str, profiles: Sequence[HeadProfile], folder: Path) -> Picture:
    """One query of the middle layer."""
    layers = sorted({profile.layer for profile in profiles})
    layer = layers[len(layers) // 2]
    profile = next(profile for profile in profiles if profile.layer == layer)
    path = folder / f"heads-{slug_of(name)}.png"
    draw_heads(profile, path, title=f"{name}, layer {layer}")
    write_heads_csv(profile, path.with_suffix(".csv"))
    return Picture(
        f"What the heads of layer {layer} of {name} make of distance, at one query {profile.query + 1} tokens into a "
        "text: attention score, static bias, and what the mixer adds. Dots are single keys, lines running means.",
        path,
        path.with_suffix(".csv"),
    )


def slug_of(name: str) -> str:
    """A name that files can have."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-")


def mean_positions(parts: Sequence[PositionLosses], method: str) -> PositionLosses:
    """Mean over seeds.

    Raises:
        EvaluationError: the seeds were measured at different positions.
    """
    first = parts[0]
    if any(part.edges != first.edges for part in parts):
        raise EvaluationError(
            f"the losses by position of {method} were measured at different positions for different seeds: evaluate "
            "all runs of a study with the same settings"
        )
    # a loss that is no number is one that has diverged: the figure shows it off the scale, like infinite perplexity
    losses = tuple(
        fmean(inf if isnan(value) else value for value in values)
        for values in zip(*(part.losses for part in parts), strict=True)
    )
    return PositionLosses(first.length, first.edges, losses, first.sequences)


def mean_passkey(parts: Sequence[Passkey]) -> Passkey:
    """Over seeds, trials taken together."""
    by_place: dict[tuple[int, float], list[PasskeyPlace]] = {}
    for part in parts:
        for place in part.places:
            by_place.setdefault((place.length, place.depth), []).append(place)
    places = []
    for (length, depth), members in sorted(by_place.items()):
        weights = [member.trials for member in members]
        shares = [
            fmean([getattr(member, name) for member in members], weights)
            for name in ("likelihood", "exact", "key_loss")
        ]
        places.append(PasskeyPlace(length, depth, sum(weights), *shares))
    return Passkey(parts[0].training_length, parts[0].candidates, tuple(places))
