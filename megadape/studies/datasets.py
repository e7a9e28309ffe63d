"""What ``megadape data stats`` does with a dataset: measure, tabulate, draw."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from megadape.console import make_table
from megadape.data.files import with_ending
from megadape.data.maintenance import measure_lengths
from megadape.evaluation.figures import draw_lengths, write_lengths_csv


def measure_and_draw(prefix: Path, figure: Path | None = None) -> tuple[Table, list[Path]]:
    """Measure the documents of a dataset, draw their lengths with the numbers beside the picture.

    Args:
        prefix: of the dataset.
        figure: where the picture goes, .png, .svg or .pdf; ``PREFIX_lengths.png`` when None.

    Returns:
        A table, and what was written.
    """
    statistics = measure_lengths(prefix)
    picture = figure or with_ending(prefix, "_lengths.png")
    draw_lengths(
        statistics, picture, title=f"{prefix.name}: {statistics.documents:,} documents, {statistics.tokens:,} tokens"
    )
    numbers = picture.with_suffix(".csv")
    write_lengths_csv(statistics, numbers)
    rows = [list(row) for row in statistics.rows()]
    return make_table(f"documents of {prefix}", ("", "tokens"), rows), [picture, numbers]
