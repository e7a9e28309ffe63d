"""What a study has found so far, gathered from its run folders."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from math import ceil, nan
from pathlib import Path
from statistics import fmean, median
from typing import Any

from megadape.config import dump_yaml
from megadape.data import BlendPart, load_manifest
from megadape.data.manifest import manifest_path
from megadape.errors import EvaluationError
from megadape.evaluation.evaluated import read_evaluated
from megadape.machine import versions
from megadape.studies.grid import Cell, Study
from megadape.studies.progress import look_at
from megadape.studies.results import CellResult, Missing, StudyResults
from megadape.training.metrics import read_metrics

LAST_SHARE = 20
"""The final loss is the mean over the last of so many parts of the steps."""


def gather(study: Study) -> StudyResults:
    """Results of all cells that are done; the others are listed as missing.

    Raises:
        EvaluationError: no cell is done, or files of one that is cannot be read.
    """
    progress = [look_at(cell) for cell in study.cells]
    done = [one.cell for one in progress if one.state == "done"]
    if not done:
        raise EvaluationError(f"no run of {study.file} is done: start them with megadape study run {study.file}")
    chosen = study.settings
    return StudyResults(
        name=chosen.name,
        folder=chosen.folder,
        reference=chosen.compared_with,
        methods=tuple(chosen.methods),
        cells=tuple(read_cell(cell) for cell in done),
        missing=tuple(Missing(one.cell.name, one.state, one.reason) for one in progress if one.state != "done"),
        facts=describe(study, [one.cell for one in progress], done),
        commands=commands(study),
        settings=dump_yaml(chosen),
    )


def read_cell(cell: Cell) -> CellResult:
    """What one finished run reached, and what it took.

    Raises:
        EvaluationError: a file is missing or damaged.
    """
    evaluated = read_evaluated(cell.run_dir, cell.run.data, cell.run.evaluation)
    rows = read_metrics(cell.run_dir / "metrics.jsonl")
    if evaluated is None or not rows:
        raise EvaluationError(
            f"{cell.run_dir} was done, but its {'evaluation' if rows else 'metrics.jsonl'} is gone: remove its "
            "cell.json, and megadape study run makes it again"
        )
    last = [row["loss"] for row in rows[-ceil(len(rows) / LAST_SHARE) :]]
    speed = median(row["tokens_per_second"] for row in rows)
    flops = rows[-1]["model_flops_per_second"] / rows[-1]["tokens_per_second"]
    return CellResult(
        method=cell.method,
        size=cell.size,
        training_length=cell.training_length,
        seed=cell.seed,
        run_dir=cell.run_dir,
        parameters=_read_provenance(cell.run_dir)["parameters"],
        steps=len(rows),
        train_seconds=sum(row["seconds"] for row in rows),
        tokens_per_second=speed,
        flops_per_token=flops,
        final_loss=nan if None in last else fmean(last),
        evaluations=evaluated.extrapolations,
        positions=evaluated.positions,
        passkey=evaluated.passkey,
    )


def describe(study: Study, cells: Sequence[Cell], done: Sequence[Cell]) -> dict[str, str]:
    """What the numbers depend on, in words."""
    first, chosen = cells[0].run, study.settings
    training, evaluation = first.training, first.evaluation
    provenance = _read_provenance(done[0].run_dir)
    packages = {**versions(), **provenance["versions"]}
    return {
        "runs": f"{len(done)} of {len(cells)} done: {len(chosen.methods)} methods, {len(chosen.seeds)} seeds "
        f"({', '.join(map(str, chosen.seeds))})",
        **{f"text {name}": text for name, text in _describe_data(first.data.parts).items()},
        **{f"model {size}": _describe_model(next(c for c in cells if c.size == size)) for size in chosen.sizes},
        "training": f"{training.steps:,} steps of {training.global_batch_size} sequences of "
        f"{' or '.join(map(str, chosen.training_lengths))} tokens, {training.precision}, AdamW, learning rate "
        f"{training.optimizer.learning_rate:g}",
        "evaluation": f"mode {evaluation.mode}, at most {evaluation.sequences} sequences a length",
        "device": f"{provenance['device']}, {provenance['threads']} threads a run",
        "versions": ", ".join(f"{name} {version}" for name, version in packages.items() if version),
    }


def commands(study: Study) -> tuple[str, ...]:
    """What makes the study again."""
    file = shlex.quote(str(study.file))
    return (f"megadape study run {file}", f"megadape study report {file}")


def _describe_model(cell: Cell) -> str:
    shape = cell.run.model
    return f"{shape.num_layers} layers, width {shape.hidden_size}, {shape.num_heads} heads"


def _describe_data(parts: Sequence[BlendPart]) -> dict[str, str]:
    texts = {}
    for part in parts:
        if not manifest_path(part.prefix).exists():
            texts[part.name] = "a dataset without manifest"
            continue
        manifest = load_manifest(part.prefix)
        texts[part.name] = (
            f"{manifest.documents:,} documents, {manifest.tokens:,} tokens ({manifest.tokenizer.kind}, vocabulary "
            f"{manifest.tokenizer.vocab_size:,}), {manifest.text_bytes / 1e6:,.1f} MB"
        )
    return texts


def _read_provenance(run_dir: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads((run_dir / "provenance.json").read_text())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{run_dir / 'provenance.json'} cannot be read: {error}") from error
    return content
