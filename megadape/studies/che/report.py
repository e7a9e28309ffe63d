"""The report of a CHE study: the paper's table, accuracy against length, and what the numbers depend on.

FOLDER/
  report.html    the page, which needs no other file
  report.md      the same as Markdown
  table.csv      the table's numbers
  accuracy.png   accuracy against length, its numbers in accuracy.csv beside it
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from megadape.chomsky import TASKS
from megadape.config import dump_yaml
from megadape.errors import EvaluationError
from megadape.evaluation.output import write_table, write_whole
from megadape.machine import versions
from megadape.studies.che.figure import draw_accuracies, write_accuracies_csv
from megadape.studies.che.grid import CheStudy
from megadape.studies.che.results import LEVELS, CheResults, best_of, gather
from megadape.studies.progress import format_time
from megadape.studies.report import elements
from megadape.studies.report.elements import Cell
from megadape.studies.report.markdown import bold, escape_markdown, linked_figure, markdown_facts, markdown_table

NOTHING = "\N{EN DASH}"

PUBLISHED_STEPS = 200_000
"""Steps of the published table."""


def report_che(study: CheStudy, out: Path | None = None) -> list[Path]:
    """Write the report of what is done; returns what was written.

    Raises:
        EvaluationError: nothing is done yet, a result is damaged, or the folder cannot be written.
    """
    results = gather(study)
    if not results.found:
        raise EvaluationError(
            f"{study.settings.folder} has no finished experiment yet: megadape che run {study.file} makes them"
        )
    folder = out or study.settings.folder / "report"
    figure, numbers = folder / "accuracy.png", folder / "accuracy.csv"
    draw_accuracies(results, figure)
    write_accuracies_csv(results, numbers)
    write_csv(results, folder / "table.csv")
    write_whole(folder / "report.md", write_markdown(results, figure, folder / "report.md"))
    write_whole(folder / "report.html", write_html(results, figure))
    return [folder / name for name in ("report.html", "report.md", "table.csv", "accuracy.png", "accuracy.csv")]


def accuracy_table(
    results: CheResults, *, trained: bool = False, mark: Callable[[str], Cell | str] = str
) -> tuple[list[str], list[list[Cell | str]]]:
    """Columns and rows: task, level, chance, and each method's mean and deviation over seeds, in percent.

    Args:
        results: of the study.
        trained: at the training lengths, instead of beyond them.
        mark: shows the best of a row.
    """
    rows: list[list[Cell | str]] = []
    for task in results.tasks:
        accuracies = results.accuracies(task, trained=trained)
        best = best_of(accuracies)
        shown: list[Cell | str] = [
            (mark if method in best else str)(accuracies[method].percent()) if method in accuracies else NOTHING
            for method in results.methods
        ]
        rows.append([task, LEVELS[TASKS[task].level], f"{100 * results.chance(task):.1f}", *shown])
    return ["task", "level", "chance", *results.methods], rows


def write_csv(results: CheResults, path: Path) -> None:
    """Write a row for each task and method, in full precision."""
    rows = []
    for task in results.tasks:
        beyond, within = results.accuracies(task), results.accuracies(task, trained=True)
        for method, spread in beyond.items():
            deviation = "" if spread.deviation is None else spread.deviation
            found = [spread.mean, deviation, spread.seeds, within[method].mean]
            rows.append([task, LEVELS[TASKS[task].level], method, results.chance(task), *found])
    columns = ["task", "level", "method", "chance", "accuracy", "deviation", "seeds", "training_accuracy"]
    write_table(path, columns, rows)


def summarise(results: CheResults) -> list[str]:
    """What was done and what the table says, in sentences made from its numbers."""
    chosen = results.study.settings
    trained, scored, steps = chosen.training.lengths, chosen.scoring.lengths, chosen.training.steps
    sentences = [
        f"Encoders that differ in nothing but positions and mixer were trained on strings of {trained.first} to "
        f"{trained.last} symbols and read strings of {scored.first} to {scored.values[-1]}"
        f"{f', every {scored.stride}th length' if scored.stride > 1 else ''}. Accuracy is per output symbol, "
        f"{'with dropout on' if chosen.scoring.dropout else 'dropout off'}, averaged over lengths.",
        f"Each number is over {len(chosen.seeds)} seed{'s' * (len(chosen.seeds) > 1)}: "
        + (
            "mean and sample deviation."
            if len(chosen.seeds) > 1
            else "no deviation can be given, and small differences mean nothing."
        ),
    ]
    if steps < PUBLISHED_STEPS:
        sentences.append(
            f"Training took {steps:,} steps, {100 * steps / PUBLISHED_STEPS:.2g} % of the {PUBLISHED_STEPS:,} behind "
            "published tables: what is not learnt here may be learnt there."
        )
    wins = {
        method: sum(method in best_of(results.accuracies(task)) for task in results.tasks) for method in results.methods
    }
    if len(wins) > 1:
        counted = ", ".join(f"{method} {wins[method]}" for method in sorted(wins, key=lambda name: -wins[name]))
        sentences.append(f"Tasks on which a method is best or shares the best: {counted}, of {len(results.tasks)}.")
    if results.missing:
        some = ", ".join(results.missing[:5]) + (", .." if len(results.missing) > 5 else "")
        total = len(results.study.cells)
        sentences.append(f"{len(results.missing)} of {total} experiments are not done and not in the table: {some}.")
    return sentences


NOTE = (
    "Chance is a guess among the symbols that carry the answer, 1/2 or 1/5, as published tables give it. Always saying "
    "the commonest symbol can reach more where symbols are not equally common; that stands in accuracy.csv as majority."
)


def describe(results: CheResults) -> dict[str, str]:
    """What the numbers depend on."""
    study, chosen = results.study, results.study.settings
    shape, training, scoring = chosen.encoder, chosen.training, chosen.scoring
    seconds = sum(result.train_seconds + result.score_seconds for result in results.all)
    file = shlex.quote(str(study.file))
    return {
        "model": f"{shape.num_layers} layers, {shape.num_heads} heads, width {shape.hidden_size}, {shape.norm}-norm, "
        f"dropout {shape.dropout:g}",
        "training": f"{training.steps:,} steps of {training.batch_size} strings of one length, uniform in "
        f"{training.lengths.first} .. {training.lengths.last}; Adam {training.learning_rate:g}, clip {training.clip:g}",
        "scoring": f"{len(scoring.lengths.values)} lengths from {scoring.lengths.first} to "
        f"{scoring.lengths.values[-1]}, {scoring.sequences} strings each, the same for all",
        "seeds": ", ".join(map(str, chosen.seeds)),
        "time": f"{format_time(seconds)} in all experiments together",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items() if version),
        "commands": f"megadape che run {file}; megadape che report {file}",
    }


def cost_table(results: CheResults) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: what each method took, over its tasks and seeds."""
    rows = []
    for method in results.methods:
        mine = [each for (_, name), found in results.found.items() if name == method for each in found]
        if mine:
            step = sum(each.train_seconds for each in mine) / sum(each.steps for each in mine)
            counts = sorted({each.parameters for each in mine})
            size = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
            rows.append([method, str(len(mine)), f"{1000 * step:.1f}", size])
    return ["method", "experiments", "ms a step", "parameters"], rows


CAPTION = (
    "Accuracy against input length: mean over seeds, deviation shaded where there are several; dashed, the longest "
    "length trained at; dotted, chance."
)


def write_markdown(results: CheResults, figure: Path, page: Path) -> str:
    """The report as Markdown."""

    def table(trained: bool) -> str:
        head, rows = accuracy_table(results, trained=trained, mark=bold)
        return markdown_table(head, [[str(cell) for cell in row] for row in rows], text_columns=2)

    parts = [
        f"# {escape_markdown(title_of(results))}",
        *map(escape_markdown, summarise(results)),
        table(trained=False),
        escape_markdown(NOTE),
        linked_figure(CAPTION, figure, page),
        "## At the training lengths",
        table(trained=True),
        "## What training took",
        markdown_table(*cost_table(results)),
        markdown_facts(describe(results)),
    ]
    return "\n\n".join(parts) + "\n"


def write_html(results: CheResults, figure: Path) -> str:
    """The report as a page."""

    def table(trained: bool) -> str:
        head, rows = accuracy_table(results, trained=trained, mark=lambda text: Cell(text, best=True))
        return elements.html_table(head, rows, text_columns=2)

    body = [
        f'<div class="summary">{elements.paragraphs(summarise(results))}</div>',
        "<h2>Accuracy beyond the training lengths (%)</h2>",
        table(trained=False),
        elements.paragraphs([NOTE], "note"),
        elements.embedded_figure(CAPTION, figure, "accuracy.csv"),
        "<h2>Accuracy at the training lengths (%)</h2>",
        table(trained=True),
        "<h2>What training took</h2>",
        elements.html_table(*cost_table(results)),
        "<h2>How to repeat it</h2>",
        elements.facts_list(describe(results)),
        elements.folded("settings", elements.preformatted(dump_yaml(results.study.settings))),
    ]
    return elements.page(title_of(results), "\n".join(body))


def title_of(results: CheResults) -> str:
    """Of the page."""
    return f"Chomsky hierarchy tasks: {results.study.settings.name}"
