"""What ``megadape evaluate`` does with a run folder: measure, write, draw."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from rich.table import Table

from megadape.config import load
from megadape.config.run import RunSettings
from megadape.console import Bars, make_table
from megadape.data import BlendPart
from megadape.errors import EvaluationError
from megadape.evaluation.figures import draw_extrapolation, draw_heads, write_heads_csv
from megadape.evaluation.heads import profile_heads
from megadape.evaluation.restore import restore_model
from megadape.evaluation.results import Extrapolation, write_results
from megadape.evaluation.run import evaluate_run, open_text
from megadape.evaluation.settings import EvaluationSettings
from megadape.parallel.failure import ending_together
from megadape.parallel.mesh import Place, open_mesh

logger = logging.getLogger(__name__)

PATIENCE = timedelta(hours=1)
"""How long ranks that share a sequence wait for one another: a layer at 65536 tokens takes its time on a CPU."""


@dataclass(frozen=True)
class EvaluationRequest:
    """A run, its text, and what to do otherwise than its settings say."""

    run_dir: Path
    split: str
    data: Path | None = None
    """Prefix of another dataset, or name of one of the run's blend."""
    lengths: str | None = None
    mode: str | None = None
    sequences: int | None = None
    last_k: int | None = None


@dataclass(frozen=True)
class HeadsRequest:
    """A run, its text, and where to look."""

    run_dir: Path
    split: str
    data: Path | None
    layer: int | None
    query: int | None
    length: int


def evaluate_and_write(request: EvaluationRequest, bars: Bars) -> tuple[Table, list[Path]]:
    """Evaluate a run, write JSON, CSV and figure into its folder; return the table and what was written.

    A run that was trained on a blend is evaluated on each of its datasets, in a file of its own. Started on several
    ranks, they share the rows of every sequence; the first one writes.
    """
    run = load_run(request.run_dir)
    settings = request_settings(run.evaluation, request)
    parts = request_parts(run, request.data)
    texts = [open_text(part.settings, settings, request.split) for part in parts]
    place = Place.from_environment()
    found: dict[str, Extrapolation] = {}
    with ending_together(place.rank, place.world), open_mesh(place, timeout=PATIENCE) as mesh:
        for part, text in zip(parts, texts, strict=True):
            doing = f"evaluating {part.name}" if len(parts) > 1 else "evaluating"

            def progress(done: int, total: int, doing: str = doing) -> None:
                bars.update(doing, done, total, "tokens")

            restored, found[part.name] = evaluate_run(request.run_dir, text, settings, progress, mesh)
    if not mesh.is_first:
        return Table(), []
    written = []
    for name, results in found.items():
        own = f"-{name}" if len(parts) > 1 else ""
        path = request.run_dir / "evaluation" / f"{results.mode}-step-{restored.step}{own}"
        write_results(results, path.parent, path.name)
        figure = path.with_name(f"{path.name}.png")
        draw_extrapolation({f"{request.run_dir.name}{own}": results.perplexity()}, results.training_length, figure)
        written += [path.with_name(f"{path.name}{ending}") for ending in (".json", ".csv", ".png")]
    return results_table(found, str(restored.path)), written


def draw_run_heads(request: HeadsRequest) -> list[Path]:
    """Draw the heads of one layer of a run at one query; return what was written."""
    run = load_run(request.run_dir)
    settings = EvaluationSettings(lengths=(request.length,), sequences=1)
    first, *others = request_parts(run, request.data)
    if others:
        logger.info("%s was trained on a blend: its heads read %s, --data names another", request.run_dir, first.name)
    text = open_text(first.settings, settings, request.split)
    if len(text.stream) < request.length:
        raise EvaluationError(
            f"the {request.split} split has {len(text.stream)} tokens, fewer than --length {request.length}"
        )
    restored = restore_model(request.run_dir, torch.device("cpu"))
    layer = len(restored.model.blocks) // 2 if request.layer is None else request.layer
    tokens = torch.from_numpy(text.stream[: request.length])
    profile = profile_heads(restored.model, tokens, layer, request.query)
    figure = request.run_dir / "evaluation" / f"heads-layer-{layer}-query-{profile.query}-step-{restored.step}.png"
    figure.parent.mkdir(parents=True, exist_ok=True)
    draw_heads(profile, figure, title=f"{request.run_dir.name}, layer {layer}, query {profile.query}")
    write_heads_csv(profile, figure.with_suffix(".csv"))
    return [figure, figure.with_suffix(".csv")]


def load_run(run_dir: Path) -> RunSettings:
    """The settings that a run folder keeps."""
    file = run_dir / "settings.yaml"
    if not file.is_file():
        raise EvaluationError(f"{run_dir} is no run folder: it has no settings.yaml; train one with megadape train")
    return load([file])


def request_parts(run: RunSettings, data: Path | None) -> tuple[BlendPart, ...]:
    """The run's datasets, the one of them that is named, or another dataset divided in the same way."""
    if data is None:
        return run.data.parts
    named = [part for part in run.data.parts if part.name == str(data)]
    if run.data.blend is not None and named:
        return tuple(named)
    return run.data.model_copy(update={"prefix": data, "blend": None}).parts


def request_settings(base: EvaluationSettings, request: EvaluationRequest) -> EvaluationSettings:
    """The run's evaluation settings with what was asked for laid on top."""
    asked: dict[str, object] = {
        "mode": request.mode,
        "sequences": request.sequences,
        "last_k": request.last_k,
        "lengths": None if request.lengths is None else parse_lengths(request.lengths),
    }
    try:
        return EvaluationSettings.model_validate(
            base.model_dump() | {key: value for key, value in asked.items() if value is not None}
        )
    except ValueError as error:
        raise EvaluationError(f"--mode {request.mode} is unknown; choose from fixed_target, last_k, all") from error


def parse_lengths(text: str) -> tuple[int, ...]:
    """ "128,256" -> (128, 256), increasing, each once."""
    try:
        lengths = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise EvaluationError(f"--lengths {text!r} is malformed: give whole numbers, such as 128,256,512") from error
    if lengths[0] < 1:
        raise EvaluationError(f"--lengths {text!r}: lengths must be at least 1")
    return tuple(lengths)


def results_table(found: Mapping[str, Extrapolation], title: str) -> Table:
    """What the command prints: results by name of the dataset, which is shown where there are several."""
    rows = [
        ([name] if len(found) > 1 else [])
        + [
            f"{row.length}" + (" (trained)" if row.length == results.training_length else ""),
            f"{row.perplexity:.3f}",
            f"{row.bits_per_byte:.4f}",
            f"{row.tokens:,}",
            f"{row.sequences}",
            f"{row.seconds:.1f}",
        ]
        for name, results in found.items()
        for row in results.results
    ]
    columns = ["length", "perplexity", "bits per byte", "tokens scored", "sequences", "seconds"]
    mode = next(iter(found.values())).mode
    return make_table(f"{title}, mode {mode}", (["data"] if len(found) > 1 else []) + columns, rows)
