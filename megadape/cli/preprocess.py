"""``megadape preprocess``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def preprocess(
    inputs: Annotated[
        list[str],
        typer.Option("--input", help="Files, folders, globs, - (JSON lines), hf:NAME[@SPLIT]; repeatable."),
    ],
    output_prefix: Annotated[Path, typer.Option("--output-prefix", help="PREFIX of PREFIX.bin, .idx and .json.")],
    tokenizer_type: Annotated[str, typer.Option("--tokenizer-type", help="byte, sentencepiece, huggingface, gpt2.")],
    tokenizer_model: Annotated[Path | None, typer.Option("--tokenizer-model", help="Model or tokenizer.json.")] = None,
    vocab_file: Annotated[Path | None, typer.Option("--vocab-file", help="gpt2: vocab.json.")] = None,
    merge_file: Annotated[Path | None, typer.Option("--merge-file", help="gpt2: merges.txt.")] = None,
    eod_token: Annotated[
        str | None, typer.Option("--eod-token", help="Token that ends a document; default: the tokenizer's usual one.")
    ] = None,
    special_tokens: Annotated[
        str | None,
        typer.Option("--special-tokens-in-text", help="What <|endoftext|> in a text becomes: text (default), special."),
    ] = None,
    fast_tokenizer: Annotated[
        str | None,
        typer.Option("--fast-tokenizer", help="tiktoken for byte-level vocabularies, same ids: auto, always or never."),
    ] = None,
    json_keys: Annotated[
        list[str] | None,
        typer.Option(
            "--json-keys",
            "--json-key",
            help="Key of the text in JSON documents, nested with dots; repeatable: PREFIX_{key} for each of several.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="KEY=VALUE", help="Only records with this value under this key; repeatable."),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option("--document-separator", help="Line between documents of text files; '' for blank lines."),
    ] = None,
    text_suffixes: Annotated[
        list[str] | None, typer.Option("--text-suffixes", help="Ending of files to read as text, as .py; repeatable.")
    ] = None,
    skip_undecodable: Annotated[
        bool, typer.Option("--skip-undecodable", help="Pass over text files that are not UTF-8.")
    ] = False,
    append_eod: Annotated[
        bool, typer.Option("--append-eod/--no-append-eod", help="End every document with the end-of-document token.")
    ] = True,
    on_bad_line: Annotated[
        str, typer.Option("--on-bad-line", help="error, skip, or quarantine (into PREFIX.quarantine.jsonl).")
    ] = "error",
    max_bad_lines: Annotated[int | None, typer.Option("--max-bad-lines", help="Stop when there are more.")] = None,
    max_line_bytes: Annotated[
        int | None, typer.Option("--max-line-bytes", help="A longer line, or text file, is bad; default: 256 MiB.")
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume", " /--overwrite", help="Go on with a killed run, or start again; default: refuse."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=1024, help="Processes; the bytes are the same for any.")
    ] = 1,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="I/N", help="Make only the I-th of N parts, on one of many machines."),
    ] = None,
    merge_parts: Annotated[
        int | None,
        typer.Option("--merge-parts", metavar="N", min=1, help="Make the dataset of all N parts; then remove them."),
    ] = None,
) -> None:
    """Turn text into a memory-mapped dataset.

    Reads .txt, .json, .jsonl (also .gz and .zst) and .parquet. Every record is a document, or counted as bad or passed
    over. A killed run goes on with --resume and writes the same bytes.

    On many machines: the same command with --part 1/8, --part 2/8 and so on, at the same time; when all are done, once
    with --merge-parts 8. That writes the same bytes too, and goes on by itself when it was killed.

    Example: megadape preprocess --input corpus.jsonl.zst --output-prefix data/corpus --tokenizer-type byte --workers 8
    """
    from megadape.console import PreprocessingReporter, open_console, progress_bars
    from megadape.data import Interrupted
    from megadape.data.preprocess import run_command
    from megadape.data.preprocessing.arguments import parse_conditions, preprocess_settings

    console = open_console()
    given = {"max_line_bytes": max_line_bytes} if max_line_bytes is not None else {}
    settings = preprocess_settings(
        inputs,
        output_prefix,
        tokenizer_type,
        {
            "model": tokenizer_model,
            "vocab": vocab_file,
            "merges": merge_file,
            "eod_token": eod_token,
            "special_tokens_in_text": special_tokens,
            "fast": fast_tokenizer,
        },
        json_keys=tuple(json_keys or ("text",)),
        where=parse_conditions(where or []),
        document_separator=separator,
        text_suffixes=tuple(text_suffixes or ()),
        skip_undecodable=skip_undecodable,
        append_eod=append_eod,
        on_bad_line=on_bad_line,
        max_bad_lines=max_bad_lines,
        resume=resume,
        workers=workers,
        **given,
    )
    try:
        with progress_bars(console) as bars:
            reporter = PreprocessingReporter(bars)
            said = run_command(settings, part, merge_parts, reporter)
    except Interrupted as interruption:
        typer.echo(f"interrupted: {interruption}", err=True)
        raise typer.Exit(130) from interruption
    for line in said:
        console.print(line, markup=False)
    if reporter.last is not None:
        console.print(reporter.last.summary(), markup=False)
