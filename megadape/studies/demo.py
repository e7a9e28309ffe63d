"""The demo: real text, four position encodings trained at length 128 from the same start, perplexity to 8192.

OUT/
  data/            text.bin .idx .json, tokenizer
  runs/METHOD/     ordinary run folders
  report.html      the page; report.md, results.json, extrapolation.png .csv and heads.png .csv beside it
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megadape.config import dump_yaml
from megadape.config.run import RunSettings
from megadape.console import Bars
from megadape.data import DatasetManifest
from megadape.data.files import write_whole
from megadape.errors import TrainingError
from megadape.evaluation.figures import draw_extrapolation, draw_heads, write_curves_csv, write_heads_csv
from megadape.evaluation.heads import profile_heads
from megadape.evaluation.restore import restore_model
from megadape.evaluation.results import Extrapolation, write_results
from megadape.evaluation.run import evaluate_run, open_text
from megadape.machine import available_cpus, versions
from megadape.model import count_parameters
from megadape.studies.cell import StepReporter
from megadape.studies.local import Job, Report, run_jobs
from megadape.studies.report import DemoReport, MethodResult, results_json, write_html, write_markdown
from megadape.studies.text import TextRequest, prepare_text
from megadape.training.launch import train
from megadape.training.metrics import read_metrics

METHODS: Mapping[str, Mapping[str, Any]] = {
    "rope": {"positions": {"kind": "rope"}},
    "alibi": {"positions": {"kind": "alibi"}},
    "kerple_log": {"positions": {"kind": "kerple_log"}},
    "dape-kerple": {"positions": {"kind": "kerple_log"}, "mixer": {"kind": "dape"}},
}
"""What is compared: name -> settings."""

DEMO_RUN: Mapping[str, Any] = {
    "model": {"num_layers": 4, "hidden_size": 128, "num_heads": 4},
    "training": {
        "steps": 500,
        "sequence_length": 128,
        "global_batch_size": 16,
        "micro_batch_size": 16,
        "optimizer": {"learning_rate": 3e-3},
        "schedule": {"warmup": 0.05},
    },
    "checkpoint": {"save_every": 250},
}
"""The settings of configs/models/demo.yaml, which a test holds equal: the demo also runs where only the package is."""

HEAD_QUERY_LENGTH = 1024
"""Text before the query whose heads are drawn: eight times the training length."""


@dataclass(frozen=True)
class DemoOptions:
    """What the user chose."""

    out: Path
    text: Path | None = None
    tokenizer: str = "byte"
    seed: int = 1234
    quick: bool = False


@dataclass(frozen=True)
class Size:
    """How much is done."""

    steps: int
    vocabulary: int
    tokenizer_bytes: int
    sequences: int


FULL = Size(steps=500, vocabulary=512, tokenizer_bytes=4_000_000, sequences=8)
QUICK = Size(steps=120, vocabulary=512, tokenizer_bytes=1_000_000, sequences=2)


@dataclass(frozen=True)
class MethodOutcome:
    """What a method's process returns."""

    extrapolation: Extrapolation
    train_seconds: float
    final_loss: float
    steps: int
    parameters: int


def run_demo(options: DemoOptions, bars: Bars) -> DemoReport:
    """Do all of it and write the report; the same command again re-uses what is there."""
    started = time.monotonic()
    size = QUICK if options.quick else FULL
    manifest = prepare_data(options, size, bars)
    settings = {name: method_settings(name, options, size) for name in METHODS}
    at_once = min(len(settings), available_cpus())
    threads = max(1, available_cpus() // at_once)
    bars.message(f"training {len(settings)} models, {at_once} at once, {threads} thread{'s' * (threads > 1)} each")
    jobs = [Job(name, train_and_evaluate, (run,)) for name, run in settings.items()]
    # the one that costs most goes first, so that the others fill the time beside it
    outcomes = run_jobs(jobs[::-1], at_once, threads, bars.update)
    results = {name: outcomes[name] for name in settings}
    return write_report(options, size, manifest, settings["dape-kerple"], results, time.monotonic() - started)


def prepare_data(options: DemoOptions, size: Size, bars: Bars) -> DatasetManifest:
    """Preprocess the text, with its tokenizer."""
    folder = options.out / "data"
    request = TextRequest(
        options.text, folder, options.tokenizer, size.vocabulary, size.tokenizer_bytes, seed=options.seed
    )
    return prepare_text(request, bars)


def method_settings(name: str, options: DemoOptions, size: Size) -> RunSettings:
    """One method's run: all alike but for positions and mixer."""
    run = {
        **DEMO_RUN,
        "training": {**DEMO_RUN["training"], "steps": size.steps},
        "run_dir": options.out / "runs" / name,
        "seed": options.seed,
        "data": {"prefix": options.out / "data" / "text", "split": "95,5", "split_by": "hash"},
        "evaluation": {"sequences": size.sequences},
        **METHODS[name],
    }
    return RunSettings.model_validate(run)


def train_and_evaluate(run: RunSettings, report: Report) -> MethodOutcome:
    """What each method's process does."""
    outcome = train(run, dump_yaml(run), StepReporter(report))
    if outcome.state != "done":
        raise TrainingError(f"{run.run_dir} was stopped ({outcome.reason}); the same command goes on")
    text = open_text(run.data, run.evaluation, "valid")
    restored, results = evaluate_run(
        run.run_dir, text, run.evaluation, lambda done, total: report(0.5 + done / total / 2, 1.0, "evaluating")
    )
    write_results(results, run.run_dir / "evaluation", f"{results.mode}-step-{restored.step}")
    rows = read_metrics(run.run_dir / "metrics.jsonl")
    return MethodOutcome(
        results, sum(row["seconds"] for row in rows), rows[-1]["loss"], len(rows), count_parameters(restored.model)
    )


def write_report(
    options: DemoOptions,
    size: Size,
    manifest: DatasetManifest,
    dape: RunSettings,
    results: Mapping[str, MethodOutcome],
    seconds: float,
) -> DemoReport:
    """Figures, CSV, JSON, Markdown and the page."""
    out = options.out
    curves = {name: outcome.extrapolation.perplexity() for name, outcome in results.items()}
    length = dape.training.sequence_length
    draw_extrapolation(curves, length, out / "extrapolation.png")
    write_curves_csv(curves, out / "extrapolation.csv")
    layer = draw_demo_heads(dape, out / "heads.png")
    report = DemoReport(
        title="Length extrapolation on real text",
        summary=summarise(curves, length),
        methods=tuple(
            MethodResult(
                name,
                outcome.extrapolation.perplexity(),
                outcome.extrapolation.bits_per_byte(),
                outcome.train_seconds,
                outcome.parameters,
                outcome.steps,
                outcome.final_loss,
            )
            for name, outcome in results.items()
        ),
        training_length=length,
        figures=(
            (
                f"Perplexity of the same tokens with ever more text before them; trained at {length}.",
                out / "extrapolation.png",
            ),
            (
                f"What the heads of layer {layer} of dape-kerple make of distance, at one query "
                f"{HEAD_QUERY_LENGTH} tokens into a text.",
                out / "heads.png",
            ),
        ),
        facts=describe(options, size, manifest, dape, seconds),
        mode=dape.evaluation.mode,
    )
    write_whole(out / "results.json", json.dumps(results_json(report), indent=1).encode())
    write_markdown(report, out / "report.md")
    write_html(report, out / "report.html")
    return report


def draw_demo_heads(run: RunSettings, path: Path) -> int:
    """Draw the heads of a middle layer; returns which."""
    text = open_text(run.data, run.evaluation, "valid")
    restored = restore_model(run.run_dir, torch.device("cpu"))
    layer = len(restored.model.blocks) // 2
    profile = profile_heads(restored.model, torch.from_numpy(text.stream[:HEAD_QUERY_LENGTH]), layer)
    draw_heads(profile, path, title=f"dape-kerple, layer {layer}, query {profile.query}")
    write_heads_csv(profile, path.with_suffix(".csv"))
    return layer


def summarise(curves: Mapping[str, Mapping[int, float]], trained: int) -> list[str]:
    """What the table says, in sentences made from its numbers."""
    longest = max(next(iter(curves.values())))
    growth = {name: curve[longest] / curve[trained] for name, curve in curves.items()}
    best = min(curves, key=lambda name: curves[name][longest])
    worst = max(growth, key=lambda name: growth[name])
    return [
        f"{len(curves)} models that differ in nothing but their position encoding were trained at length {trained} and "
        f"read texts of up to {longest} tokens.",
        f"At {longest} tokens {best} is lowest with a perplexity of {curves[best][longest]:.2f} "
        f"({growth[best]:.2f} times its own at {trained}); {worst} is at {growth[worst]:.1f} times its own.",
    ]


def describe(
    options: DemoOptions, size: Size, manifest: DatasetManifest, run: RunSettings, seconds: float
) -> dict[str, str]:
    """What the numbers depend on."""
    shape, training = run.model, run.training
    source = "Python's standard library" if options.text is None else str(options.text)
    return {
        "text": f"{source}: {manifest.documents:,} documents, {manifest.text_bytes / 1e6:.1f} MB",
        "tokens": f"{manifest.tokens:,} (tokenizer {options.tokenizer}, vocabulary {manifest.tokenizer.vocab_size:,})",
        "model": f"{shape.num_layers} layers, width {shape.hidden_size}, {shape.num_heads} heads",
        "training": f"{training.steps} steps of {training.global_batch_size} x {training.sequence_length} tokens, "
        f"seed {run.seed}",
        "evaluation": f"at most {size.sequences} texts a length, held out from training, mode {run.evaluation.mode}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items() if version),
        "whole demo": f"{seconds:.0f} s on {available_cpus()} CPUs",
        "command": shlex.join(["megadape", *sys.argv[1:]]),
    }


def next_steps(options: DemoOptions) -> Sequence[str]:
    """What to try now."""
    run = shlex.quote(str(options.out / "runs" / "dape-kerple"))
    prefix = shlex.quote(str(options.out / "data" / "text"))
    return (
        f"open {options.out / 'report.html'}",
        f"megadape evaluate {run} --lengths 128,1024,8192 --mode last_k",
        f"megadape evaluate heads {run} --layer 0",
        "megadape train configs/models/demo.yaml configs/positions/dape_fire.yaml "
        f"--set run_dir=runs/fire --set data.prefix={prefix}",
        "megadape demo --text YOUR_BOOK.txt --out my-demo",
    )
