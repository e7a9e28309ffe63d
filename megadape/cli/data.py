"""``megadape data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look into datasets, check, merge, split, shuffle and measure them.")

Prefix = Annotated[Path, typer.Argument(metavar="PREFIX", help="Of PREFIX.bin, .idx and .json.")]
OutputPrefix = Annotated[Path, typer.Option("--output-prefix", help="Of the new dataset.")]
Multimodal = Annotated[bool, typer.Option("--multimodal", help="The index has a mode for every sequence.")]


@app.command("inspect")
def data_inspect(
    prefix: Prefix,
    document: Annotated[
        int | None, typer.Option("--document", help="Print the ids of this document, from 0; -1 is the last.")
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="With --document: print its text instead.")] = False,
    sources: Annotated[bool, typer.Option("--sources", help="List every file that it was made from.")] = False,
    multimodal: Multimodal = False,
) -> None:
    """Say what a dataset holds: sizes, counts, tokenizer, options, sources; or print one document of it.

    Example: megadape data inspect data/corpus

    Example: megadape data inspect data/corpus --document 17 --decode
    """
    from megadape.console import make_table, open_console
    from megadape.data.maintenance import SOURCE_COLUMNS, inspect_dataset, view_document
    from megadape.errors import DataError

    if decode and document is None:
        raise DataError("--decode prints the text of one document: give --document N")
    if sources and document is not None:
        raise DataError("--document prints one document and --sources lists files: give one of the two")
    if document is not None:
        view = view_document(prefix, document, decode=decode)
        for line in [" ".join(map(str, one.tolist())) for one in view.sequences] if view.text is None else [view.text]:
            typer.echo(line)
        return
    console, inspection = open_console(), inspect_dataset(prefix, multimodal=multimodal)
    for what, value in inspection.facts:
        console.print(f"{what:12} {value}", markup=False)
    if sources:
        console.print(make_table("sources", SOURCE_COLUMNS, inspection.sources))


@app.command("validate")
def data_validate(
    prefix: Prefix,
    deep: Annotated[bool, typer.Option("--deep", help="Read everything and compare digests; else a sample.")] = False,
    multimodal: Multimodal = False,
) -> None:
    """Say whether a dataset is sound, or list every problem that it has and end with 2.

    Example: megadape data validate data/corpus --deep
    """
    from megadape.console import open_console, progress_bars
    from megadape.data.maintenance import validate_dataset

    console = open_console()
    with progress_bars(console) as bars:
        verdict = validate_dataset(
            prefix, deep=deep, multimodal=multimodal, tell=lambda done, total: bars.update("reading", done, total)
        )
    verdict.require_sound()
    console.print(str(verdict), markup=False)


@app.command("merge")
def data_merge(
    prefixes: Annotated[list[Path], typer.Argument(metavar="PREFIX", help="Of the datasets, in their order.")],
    output_prefix: OutputPrefix,
    widen: Annotated[
        bool, typer.Option("--widen", help="Allow different token types; the new one holds all ids.")
    ] = False,
    no_manifests: Annotated[
        bool, typer.Option("--no-manifests", help="Neither read nor write manifests: you know that tokenizers agree.")
    ] = False,
) -> None:
    """Write the documents of several datasets of one tokenizer into one, one dataset after another.

    Example: megadape data merge data/books data/arxiv --output-prefix data/all
    """
    from megadape.console import open_console, progress_bars
    from megadape.data.maintenance import merge_datasets

    console = open_console()
    with progress_bars(console) as bars:
        merged = merge_datasets(
            prefixes,
            output_prefix,
            widen=widen,
            manifests=not no_manifests,
            tell=lambda done, total: bars.update("merging", done, total, f"{done:,} tokens"),
        )
    console.print(str(merged), markup=False)


@app.command("split")
def data_split(
    prefix: Prefix,
    shares: Annotated[str, typer.Option("--shares", help="Of training, validation and test, as 969,30,1.")],
    by: Annotated[str, typer.Option("--by", help="range (in order) or hash (by a seeded draw for each).")] = "range",
    seed: Annotated[int, typer.Option("--seed", help="Of the hash.")] = 0,
    output_prefix: Annotated[
        Path | None, typer.Option("--output-prefix", help="What the new names begin with; default: PREFIX.")
    ] = None,
) -> None:
    """Write PREFIX_train, PREFIX_valid and PREFIX_test as datasets of their own, of whole documents.

    Example: megadape data split data/corpus --shares 969,30,1 --by hash --seed 7
    """
    from megadape.console import open_console, progress_bars
    from megadape.data.maintenance import split_dataset

    console = open_console()
    with progress_bars(console) as bars:
        parts = split_dataset(
            prefix,
            shares,
            by=by,
            seed=seed,
            output_prefix=output_prefix,
            tell=lambda done, total: bars.update("splitting", done, total, f"{done:,} tokens"),
        )
    for part in parts:
        console.print(str(part), markup=False)


@app.command("shuffle")
def data_shuffle(
    prefix: Prefix,
    output_prefix: OutputPrefix,
    seed: Annotated[int, typer.Option("--seed", help="Of the order, which is the same on any machine.")],
) -> None:
    """Write the documents of a dataset in an order drawn from a seed.

    Example: megadape data shuffle data/corpus --output-prefix data/shuffled --seed 7
    """
    from megadape.console import open_console, progress_bars
    from megadape.data.maintenance import shuffle_dataset

    console = open_console()
    with progress_bars(console) as bars:
        shuffled = shuffle_dataset(
            prefix,
            output_prefix,
            seed,
            tell=lambda done, total: bars.update("shuffling", done, total, f"{done:,} tokens"),
        )
    console.print(str(shuffled), markup=False)


@app.command("stats")
def data_stats(
    prefix: Prefix,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="The picture, .png, .svg or .pdf; default: PREFIX_lengths.png.")
    ] = None,
) -> None:
    """Measure how long documents are: a table, a histogram as a picture, and its numbers as CSV beside it.

    Example: megadape data stats data/corpus
    """
    from megadape.console import open_console
    from megadape.studies.datasets import measure_and_draw

    table, written = measure_and_draw(prefix, figure)
    console = open_console()
    console.print(table)
    console.print(f"written: {', '.join(str(path) for path in written)}", markup=False)
