"""``megadape demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    text: Annotated[
        Path | None, typer.Option(help="Your own text (file or folder); default: Python's standard library.")
    ] = None,
    tokenizer: Annotated[str, typer.Option(help="byte, or sentencepiece (trained on the text).")] = "byte",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of initial values and data order.")] = 1234,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller and shorter: under 90 seconds.")] = False,
) -> None:
    """Preprocess real text, train four position encodings at length 128, evaluate them to 8192, draw the result.

    Example: megadape demo --out demo
    """
    from megadape.console import make_table, open_console, progress_bars
    from megadape.studies.demo import DemoOptions, next_steps, run_demo
    from megadape.studies.report import comparison_rows

    console = open_console()
    options = DemoOptions(out=out, text=text, tokenizer=tokenizer, seed=seed, quick=quick)
    with progress_bars(console) as bars:
        report = run_demo(options, bars)
    console.print(make_table("perplexity by evaluation length (* lowest)", *comparison_rows(report)))
    for sentence in (*report.summary, "", "now try:", *next_steps(options)):
        console.print(sentence, markup=False)
