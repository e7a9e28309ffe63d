"""The ``megadape`` command: no logic, and imports inside each command, so that --help is quick."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from megadape.errors import MegadapeError
from megadape.machine import is_first_rank


class PlainErrors(TyperGroup):
    """A user's mistake is one sentence and exit code 2, an interruption 130; anything else is a bug and shows its
    traceback."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run a command."""
        try:
            return super().invoke(ctx)
        except MegadapeError as error:
            typer.echo(f"megadape: {error}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as interruption:
            typer.echo("interrupted: what was complete is kept, the same command goes on from there", err=True)
            raise typer.Exit(130) from interruption


class DefaultsToRun(TyperGroup):
    """A group whose first word may be left out when it is ``run``: ``evaluate RUN`` is ``evaluate run RUN``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the word in where it was left out."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=PlainErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(no_args_is_help=True, help="Look at settings before running them.")
evaluate_app = typer.Typer(cls=DefaultsToRun, no_args_is_help=True, help="Evaluate a run past its training length.")
checkpoint_app = typer.Typer(no_args_is_help=True, help="Look at checkpoints, verify and convert them.")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(config_app, name="config")
app.add_typer(evaluate_app, name="evaluate")

Files = Annotated[list[Path], typer.Argument(help="Settings files; later ones are laid over earlier ones.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one key, over the files; repeatable.")
]
CheckpointPath = Annotated[Path, typer.Argument(help="Run folder, or one checkpoint like step-00001000.")]
RunDir = Annotated[Path, typer.Argument(help="Run folder, as made by megadape train.")]


def main() -> None:
    """The console script."""
    # what ends a job politely ends it as Ctrl-C does: temporary files are removed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # of several ranks the first alone tells what it does; all of them tell what goes wrong
    level = logging.INFO if is_first_rank() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    app()


@app.callback()
def launched(
    local_rank: Annotated[
        int | None,
        typer.Option("--local_rank", hidden=True, help="What the DeepSpeed launcher gives; LOCAL_RANK counts."),
    ] = None,
) -> None:
    """GPTs with data-adaptive positional encoding: preprocess, train, evaluate past the training length."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    text: Annotated[
        Path | None, typer.Option(help="Your own text (file or folder); default: Python's standard library.")
    ] = None,
    tokenizer: Annotated[str, typer.Option(help="byte, or sentencepiece (trained on the text).")] = "byte",
    seed: Annotated[int, typer.Option(help="Of initial values and data order.")] = 1234,
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


@app.command()
def preprocess(
    inputs: Annotated[list[str], typer.Option("--input", help="Files, folders or globs; repeatable.")],
    output_prefix: Annotated[Path, typer.Option("--output-prefix", help="PREFIX of PREFIX.bin, .idx and .json.")],
    tokenizer_type: Annotated[str, typer.Option("--tokenizer-type", help="byte, sentencepiece, huggingface, gpt2.")],
    tokenizer_model: Annotated[Path | None, typer.Option("--tokenizer-model", help="Model or tokenizer.json.")] = None,
    vocab_file: Annotated[Path | None, typer.Option("--vocab-file", help="gpt2: vocab.json.")] = None,
    merge_file: Annotated[Path | None, typer.Option("--merge-file", help="gpt2: merges.txt.")] = None,
    json_key: Annotated[str, typer.Option("--json-key", help="Key of the text in JSON documents.")] = "text",
    append_eod: Annotated[
        bool, typer.Option("--append-eod/--no-append-eod", help="End every document with the end-of-document token.")
    ] = True,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; the bytes are the same for any.")] = 1,
) -> None:
    """Turn text into a memory-mapped dataset.

    Example: megadape preprocess --input corpus.jsonl.zst --output-prefix data/corpus --tokenizer-type byte --workers 8
    """
    from megadape.console import open_console, preprocessing_note, progress_bars
    from megadape.data import preprocess_files

    console = open_console()
    files: dict[str, object] = {"model": tokenizer_model, "vocab": vocab_file, "merges": merge_file}
    with progress_bars(console) as bars:
        manifest = preprocess_files(
            inputs,
            output_prefix,
            tokenizer=tokenizer_type,
            tokenizer_options=files,
            json_key=json_key,
            append_eod=append_eod,
            workers=workers,
            progress=lambda p: bars.update("preprocessing", p.fraction, 1.0, preprocessing_note(p)),
        )
    console.print(
        f"{output_prefix}: {manifest.documents:,} documents, {manifest.tokens:,} tokens of {manifest.dtype}, "
        f"{manifest.text_bytes:,} bytes of text",
        markup=False,
    )


@app.command()
def train(
    files: Files,
    overrides: Overrides = None,
    stop_after_steps: Annotated[
        int | None, typer.Option("--stop-after-steps", min=1, help="Stop, saved and resumable, after so many steps.")
    ] = None,
    stop_after: Annotated[
        str | None,
        typer.Option("--stop-after", metavar="TIME", help="Stop, saved, resumable, after 3h55m, 90s, ..."),
    ] = None,
) -> None:
    """Train, or go on training: the same command on the same run_dir resumes.

    Ends with 0 when all steps are made, 75 when it was stopped and the same command goes on (SIGTERM, SIGUSR1, Ctrl-C,
    a time budget, the Slurm job's end, a file STOP in run_dir), 1 or 2 when it failed; outcome.json in run_dir says it.

    Example: megadape train configs/models/demo.yaml configs/positions/dape_kerple.yaml --set run_dir=runs/demo --set
        data.prefix=data/corpus
    """
    from megadape.config import dump_yaml, load
    from megadape.console import TrainingReporter, open_console, progress_bars
    from megadape.training.launch import train as train_run

    budget = [] if stop_after is None else [f"stop.after={stop_after}"]
    settings = load(files, (overrides or []) + budget)
    console = open_console()
    with progress_bars(console) as bars:
        reporter = TrainingReporter(bars, console, settings.logging.every)
        outcome = train_run(settings, dump_yaml(settings), reporter, stop_after_steps)
    raise typer.Exit(outcome.exit_code or 0)


@app.command()
def plan(
    files: Files,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes of the cluster.")],
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", min=1, help="GPUs of each node, one rank each.")],
    overrides: Overrides = None,
    gpu_memory: Annotated[float, typer.Option("--gpu-memory", help="GiB of one GPU.")] = 80.0,
    build: Annotated[
        bool, typer.Option("--build", help="Build the real modules of the layout's ranks, without memory.")
    ] = False,
    ranks: Annotated[
        str | None, typer.Option("--ranks", metavar="0,5,1023", help="Ranks to build; default: ends of each stage.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every layout to this file.")] = None,
    gpu_flops: Annotated[
        float | None, typer.Option("--gpu-flops", help="Operations a second that a GPU sustains; default: 3e14.")
    ] = None,
    link_bandwidth: Annotated[
        float | None, typer.Option("--link-bandwidth", help="Bytes a second inside a node; default: 3e11.")
    ] = None,
    network_bandwidth: Annotated[
        float | None, typer.Option("--network-bandwidth", help="Bytes a second a GPU between nodes; default: 4e10.")
    ] = None,
) -> None:
    """Which layouts of a cluster fit a run, ranked: memory, communication, speed; no GPU needed.

    Example: megadape plan configs/models/350M.yaml configs/positions/dape_kerple.yaml --nodes 4 --gpus-per-node 8
        --gpu-memory 80
    """
    from megadape.console import open_console
    from megadape.plan.command import PlanRequest, describe_cluster, plan_and_write

    cluster = describe_cluster(nodes, gpus_per_node, gpu_memory, gpu_flops, link_bandwidth, network_bandwidth)
    request = PlanRequest(files, overrides or [], cluster, build=build, ranks=ranks, json_file=json_file)
    console = open_console()
    for part in plan_and_write(request):
        console.print(part, markup=False)


@evaluate_app.command("run")
def evaluate(
    run_dir: RunDir,
    lengths: Annotated[str | None, typer.Option(help="Comma-separated lengths; default: the run's settings.")] = None,
    mode: Annotated[str | None, typer.Option(help="fixed_target, last_k or all.")] = None,
    sequences: Annotated[int | None, typer.Option(min=1, help="At most how many sequences a length.")] = None,
    last_k: Annotated[int | None, typer.Option(min=1, help="At most how many predictions a sequence count.")] = None,
    data: Annotated[Path | None, typer.Option(help="Another dataset's prefix; default: the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "valid",
) -> None:
    """Perplexity and bits per byte at many lengths: a table, a figure, JSON and CSV in RUN_DIR/evaluation.

    Example: megadape evaluate runs/demo --lengths 128,256,512,1024,2048,4096,8192
    """
    from megadape.console import open_console, progress_bars
    from megadape.studies.evaluate import EvaluationRequest, evaluate_and_write

    request = EvaluationRequest(run_dir, split, data, lengths=lengths, mode=mode, sequences=sequences, last_k=last_k)
    console = open_console()
    with progress_bars(console) as bars:
        table, written = evaluate_and_write(request, bars)
    console.print(table)
    console.print(f"written: {', '.join(str(path) for path in written)}", markup=False)


@evaluate_app.command("heads")
def evaluate_heads(
    run_dir: RunDir,
    layer: Annotated[int | None, typer.Option(min=0, help="Which layer, from 0; default: the middle one.")] = None,
    query: Annotated[int | None, typer.Option(min=0, help="Which position attends; default: the last.")] = None,
    length: Annotated[int, typer.Option(min=2, help="Tokens of text.")] = 1024,
    data: Annotated[Path | None, typer.Option(help="Another dataset's prefix; default: the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "valid",
) -> None:
    """Draw score, static bias and DAPE correction against distance for every head of a layer.

    Example: megadape evaluate heads runs/demo --layer 2 --length 2048
    """
    from megadape.console import open_console
    from megadape.studies.evaluate import HeadsRequest, draw_run_heads

    written = draw_run_heads(HeadsRequest(run_dir, split, data, layer=layer, query=query, length=length))
    open_console().print(f"written: {', '.join(str(path) for path in written)}", markup=False)


@config_app.command("show")
def config_show(files: Files, overrides: Overrides = None) -> None:
    """Print the resolved settings with the origin of each value.

    Example: megadape config show configs/models/125M.yaml configs/positions/dape_kerple.yaml --set run_dir=runs/a
    """
    from megadape.config import load_with_origins, show

    typer.echo(show(load_with_origins(files, overrides or [])))


@config_app.command("validate")
def config_validate(files: Files, overrides: Overrides = None) -> None:
    """Say whether the settings are right, or list all mistakes.

    Example: megadape config validate configs/models/125M.yaml --set run_dir=runs/a --set data.prefix=data/arxiv
    """
    from megadape.config import load

    load(files, overrides or [])
    typer.echo("the settings are valid")


@config_app.command("diff")
def config_diff(
    first: Annotated[Path, typer.Argument(help="Settings file, or a run folder.")],
    second: Annotated[Path, typer.Argument(help="Settings file, or a run folder.")],
    overrides: Overrides = None,
) -> None:
    """List the settings in which two files or runs differ.

    Example: megadape config diff runs/a runs/b
    """
    from megadape.config import diff, load, render_diff

    one, other = (
        load([path / "settings.yaml" if path.is_dir() else path], overrides or []) for path in (first, second)
    )
    typer.echo(render_diff(diff(one, other), str(first), str(second)))


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the settings, for editors.

    Example: megadape config schema > megadape.schema.json
    """
    import json

    from megadape.config import schema

    typer.echo(json.dumps(schema(), indent=2))


@checkpoint_app.command("inspect")
def checkpoint_inspect(path: CheckpointPath) -> None:
    """Print what a checkpoint holds: step, layout, settings, versions, and every parameter with its shape.

    Example: megadape checkpoint inspect runs/demo
    """
    from megadape.checkpoint.inspection import COLUMNS, inspect_checkpoint
    from megadape.console import make_table, open_console

    console, inspection = open_console(), inspect_checkpoint(path)
    for what, value in inspection.facts:
        console.print(f"{what:14} {value}", markup=False)
    console.print(make_table("parameters", COLUMNS, inspection.tensors))


@checkpoint_app.command("verify")
def checkpoint_verify(
    path: CheckpointPath,
    full: Annotated[
        bool, typer.Option("--full", help="Read everything and compare digests; else sizes alone.")
    ] = False,
) -> None:
    """Say of a checkpoint, or of all of a run, whether it is sound; exit code 1 if one is not.

    Example: megadape checkpoint verify runs/demo --full
    """
    from megadape.checkpoint.inspection import verify

    verdicts = verify(path, full)
    for verdict in verdicts:
        typer.echo(str(verdict))
    if any(verdict.problem for verdict in verdicts):
        raise typer.Exit(1)


@checkpoint_app.command("convert")
def checkpoint_convert(
    source: Annotated[Path, typer.Argument(help="Run folder or checkpoint; with --from, another project's.")],
    out: Annotated[Path, typer.Argument(help="Folder for DeepSpeed's load_checkpoint; with --from, a run folder.")],
    family: Annotated[
        str | None, typer.Option("--from", metavar="PROJECT", help="gpt-neox, megatron-lm or megatron-core.")
    ] = None,
    settings: Annotated[
        list[Path] | None, typer.Option("--settings", help="With --from: settings of the model that it is; repeatable.")
    ] = None,
    overrides: Overrides = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="THEIRS=OURS", help="With --from: a further name, within a block; repeatable."),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Read pickles, which can run any code of whoever wrote them.")
    ] = False,
) -> None:
    """Write a checkpoint in DeepSpeed's universal form, or make one of Megatron's or GPT-NeoX's parameters.

    Example: megadape checkpoint convert runs/demo universal

    Example: megadape checkpoint convert global_step143000 runs/pythia --from gpt-neox --settings pythia.yaml --trust
    """
    from megadape.checkpoint.convert import convert_to_universal

    if family is None:
        typer.echo(f"written: {convert_to_universal(source, out)}")
        return
    from megadape.config import load
    from megadape.training.importing import import_checkpoint

    # a conversion has neither data nor a run of its own, but settings want them named
    run = load(settings or [], [f"run_dir={out}", "data.prefix=none", *(overrides or [])])
    typer.echo(f"written: {import_checkpoint(source, out, family, run.architecture, trust, names or [])}")
