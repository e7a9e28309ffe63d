"""The report of a study, put together: what stands where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from megadape.evaluation.head_profiles import HeadProfile
from megadape.studies.report.blocks import Block, Facts, Folded, Heading, Listing, Picture, Prose, write_report
from megadape.studies.report.files import keep_only
from megadape.studies.report.study import csv_files, pictures, summary, tables
from megadape.studies.report.study.costs import training_costs
from megadape.studies.report.study.panels import Group, Panel, group_cells, make_panels
from megadape.studies.results import StudyResults

Profiles = Mapping[str, Sequence[HeadProfile]]
"""Name of a model, such as its method -> its heads, at several queries and in several layers."""


def write_study_report(results: StudyResults, profiles: Profiles, folder: Path) -> list[Path]:
    """Write what a study has found so far: report.html, report.md, and figures and CSV files beside them.

    The same results give the same bytes, whatever the order in which the runs came in, and whatever an earlier report
    left in the folder.

    Args:
        results: of the study.
        profiles: heads to look at; may be empty.
        folder: where to.

    Returns:
        What was written, the page first.

    Raises:
        EvaluationError: runs that cannot be compared, a value that is no number, or an unwritable file.
    """
    groups = group_cells(results)
    panels = {group.slug: make_panels(group, results.reference) for group in groups}
    every = [panel for own in panels.values() for panel in own]
    shown = {name: own for name, own in profiles.items() if own}
    files = [
        csv_files.write_perplexities(every, folder / "perplexity.csv"),
        csv_files.write_comparisons(every, folder / "comparisons.csv"),
        csv_files.write_runs(groups, folder / "runs.csv"),
        csv_files.write_missing(results.missing, folder / "missing.csv"),
        *(csv_files.write_trends(own, folder / f"trends-{pictures.slug_of(name)}.csv") for name, own in shown.items()),
    ]
    blocks: list[Block] = [Prose(summarise(results, every, shown), "summary")]
    for panel in every:
        blocks += comparison_section(panel, folder)
    for group in groups:
        blocks += group_sections(group, panels[group.slug], folder)
    blocks += heads_section(shown, folder)
    blocks += closing_sections(results)
    figures = [path for block in blocks if isinstance(block, Picture) for path in (block.path, block.numbers)]
    written = [*write_report(f"Study {results.name}", blocks, folder), *figures, *files]
    return [*written, keep_only(written, folder)]


def summarise(results: StudyResults, panels: Sequence[Panel], profiles: Profiles) -> list[str]:
    """What was found, in sentences."""
    sentences = [summary.describe_study(results)]
    for panel in panels:
        sentences.append(" ".join(summary.summarise_panel(panel)))
    return sentences + [summary.describe_heads(name, own) for name, own in profiles.items()]


def comparison_section(panel: Panel, folder: Path) -> list[Block]:
    """The paper's table and figure, and the paired comparisons behind the marks."""
    blocks: list[Block] = [
        Heading(f"Perplexity by length: {panel.name}"),
        tables.length_table(panel),
        Prose(summary.describe_table(panel), "note"),
        pictures.curves_picture(panel, folder),
    ]
    if any(panel.comparisons.values()):
        longest = panel.lengths[-1:]
        blocks += [
            Heading(f"{panel.reference} against each method at {longest[0]} tokens", 3),
            tables.comparison_table(panel, longest),
            Prose(summary.describe_comparisons(panel), "note"),
            Folded("The same at every length", [tables.comparison_table(panel, panel.lengths)]),
        ]
    return blocks


def group_sections(group: Group, panels: Sequence[Panel], folder: Path) -> list[Block]:
    """What training took and what it bought; losses by position and passkeys, where they were measured."""
    costs = training_costs(group)
    bought = [pictures.cost_picture(panel, costs, folder) for panel in panels]
    by_position = [pictures.positions_picture(group, dataset, folder) for dataset in position_sets(group)]
    passkey = pictures.passkey_picture(group, folder)
    blocks: list[Block] = [Heading(f"Cost: {group.name}"), tables.cost_table(costs)]
    blocks.append(Prose([summary.COST_NOTE], "note"))
    blocks += [picture for picture in bought if picture is not None]
    if by_position:
        blocks += [Heading(f"Loss by position: {group.name}"), *by_position]
    if passkey is not None:
        blocks += [Heading(f"Passkey retrieval: {group.name}"), passkey]
    return blocks


def position_sets(group: Group) -> list[str]:
    """Evaluation sets whose losses by position were measured."""
    return sorted({name for cells in group.cells.values() for cell in cells for name in cell.positions})


def heads_section(profiles: Profiles, folder: Path) -> list[Block]:
    """Heads as pictures, and how many are local."""
    blocks: list[Block] = [Heading("What heads make of distance")] if profiles else []
    for name, own in profiles.items():
        blocks += [
            pictures.heads_picture(name, own, folder),
            Heading(f"Local and anti-local heads of {name}", 3),
            tables.kinds_table(own),
            Prose([summary.describe_measure(own)], "note"),
        ]
    return blocks


def closing_sections(results: StudyResults) -> list[Block]:
    """What is missing, and all that made the numbers."""
    blocks: list[Block] = []
    if results.missing:
        blocks += [Heading("Runs without results"), tables.missing_table(results.missing)]
    blocks += [Heading("How to repeat it"), Facts(results.facts)]
    if results.commands:
        blocks.append(Listing("\n".join(results.commands)))
    if results.settings:
        blocks.append(Folded("Settings of the study", [Listing(results.settings)]))
    return blocks
