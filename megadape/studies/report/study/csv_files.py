"""Everything that a study measured, as CSV in full precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megadape.evaluation.head_profiles import HeadProfile, head_trends
from megadape.evaluation.output import write_table
from megadape.studies.report.study.panels import Group, Panel
from megadape.studies.results import Missing


def write_perplexities(panels: Sequence[Panel], path: Path) -> Path:
    """A row for each run, evaluation set and length."""
    columns = ["loss", "perplexity", "bits_per_byte", "tokens", "sequences"]
    rows = (
        [panel.group.size, panel.group.training_length, panel.dataset, panel.mode, method, seed, length]
        + [getattr(result, name) for name in columns]
        for panel in panels
        for method, seeds in panel.runs.items()
        for seed, lengths in seeds.items()
        for length, result in sorted(lengths.items())
    )
    write_table(path, ["size", "training_length", "dataset", "mode", "method", "seed", "length", *columns], rows)
    return path


def write_comparisons(panels: Sequence[Panel], path: Path) -> Path:
    """A row for each comparison; empty where something is not defined."""
    plain = ["seeds", "sequences", "difference", "perplexity_ratio", "effect", "corrected_effect", "t_p"]
    plain += ["exact_p", "adjusted_p", "smallest_p"]
    rows = (
        [panel.group.size, panel.group.training_length, panel.dataset, panel.reference, method, length]
        + [_plain(getattr(one, name)) for name in plain]
        + [*(one.interval or ("", "")), *(one.bootstrap or ("", "")), " ".join(map(str, one.unpaired)), one.reason]
        for panel in panels
        for method, family in panel.comparisons.items()
        for length, one in family.items()
    )
    renamed = {"effect": "cohen_dz", "corrected_effect": "hedges_g"}
    names = [renamed.get(name, name) for name in plain]
    bounds = ["interval_low", "interval_high", "bootstrap_low", "bootstrap_high", "unpaired_seeds", "reason"]
    write_table(path, ["size", "training_length", "dataset", "reference", "method", "length", *names, *bounds], rows)
    return path


def write_runs(groups: Sequence[Group], path: Path) -> Path:
    """A row a run: what its training took and reached."""
    columns = ["size", "training_length", "method", "seed", "parameters", "flops_per_token", "steps"]
    columns += ["train_seconds", "tokens_per_second", "final_loss"]
    rows = (
        [_plain(getattr(cell, name)) for name in columns]
        for group in groups
        for cells in group.cells.values()
        for cell in cells
    )
    write_table(path, columns, rows)
    return path


def write_missing(missing: Sequence[Missing], path: Path) -> Path:
    """A row for each run of the grid without results."""
    write_table(path, ["run", "state", "reason"], [[run.name, run.state, run.reason] for run in missing])
    return path


def write_trends(profiles: Sequence[HeadProfile], path: Path) -> Path:
    """A row a head: how what is added to its scores goes with distance."""
    rows = [[one.layer, one.head, one.position, one.correction, one.queries] for one in head_trends(profiles)]
    write_table(path, ["layer", "head", "bias_and_correction", "correction", "queries"], rows)
    return path


def _plain(value: object) -> object:
    return "" if value is None else value
