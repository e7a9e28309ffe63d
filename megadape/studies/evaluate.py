"""What ``megadape evaluate`` does with a run folder: measure, write, draw."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import fmean

import torch
from rich.table import Table

from megadape.config import load
from megadape.config.run import RunSettings
from megadape.console import Bars, make_table
from megadape.data import BlendPart, DataSettings
from megadape.errors import EvaluationError
from megadape.evaluation.evaluated import Evaluated
from megadape.evaluation.figures import draw_extrapolation, draw_heads, draw_passkey, draw_positions, write_heads_csv
from megadape.evaluation.files import file_name
from megadape.evaluation.heads import profile_heads
from megadape.evaluation.restore import restore_model
from megadape.evaluation.results import Passkey
from megadape.evaluation.run import evaluate_all, open_text
from megadape.evaluation.settings import EvaluationSet, EvaluationSettings, PasskeySettings, PositionLossSettings
from megadape.parallel.failure import ending_together
from megadape.parallel.mesh import Place, open_mesh
from megadape.settings import Settings

logger = logging.getLogger(__name__)

PATIENCE = timedelta(days=1)
"""How long ranks wait for one another: who has read its last text waits for one that still reads 65536 tokens on a CPU.
A rank that dies is noticed at once."""


@dataclass(frozen=True)
class EvaluationRequest:
    """A run, its text, and what to do otherwise than its settings say."""

    run_dir: Path
    split: str | None = None
    data: Path | None = None
    """Prefix of another dataset, or name of an evaluation set or of one of the run's blend."""
    lengths: str | None = None
    mode: str | None = None
    sequences: int | None = None
    last_k: int | None = None
    positions: bool | None = None
    passkey: bool | None = None


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

    Each evaluation set, and each dataset of a run that was trained on a blend, has files of its own. Started on several
    ranks, they share the work; the first one writes. The same command goes on where a killed one stopped.
    """
    run = load_run(request.run_dir)
    settings, data = request_settings(run, request)
    place = Place.from_environment()

    def progress(done: int, total: int) -> None:
        bars.update("evaluating", done, total, "tokens")

    with ending_together(place.rank, place.world), open_mesh(place, timeout=PATIENCE) as mesh:
        evaluated = evaluate_all(request.run_dir, data, settings, progress, mesh)
    if not mesh.is_first:
        return Table(), []
    return results_table(evaluated), draw_evaluated(evaluated, request.run_dir)


def draw_evaluated(evaluated: Evaluated, run_dir: Path) -> list[Path]:
    """Draw everything that was found, beside its numbers; return all files of the evaluation."""
    folder, files = run_dir / "evaluation", []

    def picture(kind: str, name: str | None = None) -> tuple[str, Path]:
        files.append(folder / file_name(evaluated, kind, name))
        label = f"{run_dir.name}-{name}" if evaluated.named and name else run_dir.name
        return label, files[-1].with_name(f"{files[-1].name}.png")

    for name, results in evaluated.extrapolations.items():
        label, path = picture(results.mode, name)
        draw_extrapolation({label: results.perplexity()}, results.training_length, path)
    for name, losses in evaluated.positions.items():
        label, path = picture("positions", name)
        draw_positions({label: losses}, evaluated.extrapolations[name].training_length, path)
    if evaluated.passkey is not None:
        label, path = picture("passkey")
        draw_passkey({label: evaluated.passkey}, path)
    return [file.with_name(f"{file.name}{ending}") for file in files for ending in (".json", ".csv", ".png")]


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


def request_settings(run: RunSettings, request: EvaluationRequest) -> tuple[EvaluationSettings, DataSettings]:
    """The run's evaluation settings with what was asked for laid on top, and the data that they are about.

    Raises:
        EvaluationError: an unknown mode or split, or a split of evaluation sets, which have one of their own.
    """
    base = run.evaluation
    asked: dict[str, object] = {
        "mode": request.mode,
        "sequences": request.sequences,
        "last_k": request.last_k,
        "split": request.split,
        "lengths": None if request.lengths is None else parse_lengths(request.lengths),
        "positions": _measured(request.positions, base.positions, PositionLossSettings()),
        "passkey": _measured(request.passkey, base.passkey, PasskeySettings()),
    }
    changes = {key: value for key, value in asked.items() if value is not None}
    sets, data = request_sets(run, request.data)
    if sets is not None and request.split is not None:
        raise EvaluationError("--split is for the run's own data or --data: evaluation.sets have splits of their own")
    for key, choices in (("mode", "fixed_target, last_k, all"), ("split", "train, valid, test")):
        if key in changes and changes[key] not in choices.split(", "):
            raise EvaluationError(f"--{key} {changes[key]} is unknown; choose from {choices}")
    measured = {"positions": request.positions, "passkey": request.passkey}
    off = {key: None for key, wanted in measured.items() if wanted is False}
    return base.model_copy(update={**changes, **off, "sets": sets}), data


def _measured(wanted: bool | None, base: Settings | None, default: Settings) -> Settings | None:
    return base or default if wanted else None


def request_sets(run: RunSettings, data: Path | None) -> tuple[dict[str, EvaluationSet] | None, DataSettings]:
    """The evaluation sets, or the one of them that is named, or none where other data is; and that data."""
    sets = run.evaluation.sets
    if sets is not None and (data is None or str(data) in sets):
        return (sets if data is None else {str(data): sets[str(data)]}), run.data
    if data is None:
        return None, run.data
    (part,) = request_parts(run, data)
    return None, part.settings


def parse_lengths(text: str) -> tuple[int, ...]:
    """ "128,256" -> (128, 256), increasing, each once."""
    try:
        lengths = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise EvaluationError(f"--lengths {text!r} is malformed: give whole numbers, such as 128,256,512") from error
    if lengths[0] < 1:
        raise EvaluationError(f"--lengths {text!r}: lengths must be at least 1")
    return tuple(lengths)


def results_table(evaluated: Evaluated) -> Table:
    """What the command prints: results by name of the dataset, which is shown where there are several; passkey
    retrieval below."""
    found = evaluated.extrapolations
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
    table = make_table(f"{evaluated.path}, mode {mode}", (["data"] if len(found) > 1 else []) + columns, rows)
    if evaluated.passkey is not None:
        table.caption, table.caption_justify = "\n".join(passkey_lines(evaluated.passkey)), "left"
    return table


def passkey_lines(passkey: Passkey) -> list[str]:
    """A line a length, means over depths."""
    lines = [f"passkey retrieval, chance {1 / passkey.candidates:.3g}:"]
    for length in dict.fromkeys(place.length for place in passkey.places):
        places = [place for place in passkey.places if place.length == length]
        likeliest = fmean(place.likelihood for place in places)
        exact = fmean(place.exact for place in places)
        lines.append(f"length {length}: likeliest {likeliest:.3f}, written {exact:.3f}")
    return lines
