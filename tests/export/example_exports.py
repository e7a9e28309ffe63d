"""Small models with any parameters as runs, to export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from megadape.checkpoint import CheckpointWriter
from megadape.checkpoint.settings import CheckpointSettings
from megadape.config import dump_yaml, load
from megadape.config.run import RunSettings
from megadape.model import GPT, Architecture, build_gpt
from megadape.parallel.mesh import Mesh, Place
from megadape.parameters import parameter_table
from megadape.positions import ENCODINGS

LENGTH = 16
"""Trained at."""

NONE: dict[str, Any] = {"kind": "none"}
V2: dict[str, Any] = {"kind": "dape_v2", "hidden": 6}


def dape(variant: str) -> dict[str, Any]:
    return {"kind": "dape", "hidden": 6, "variant": variant}


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{kind: ({"kind": kind}, NONE) for kind in ENCODINGS},
    **{f"dape-{kind}": ({"kind": kind}, dape("concat_residual")) for kind in ENCODINGS},
    **{
        f"{variant}-{kind}": ({"kind": kind}, dape(variant))
        for variant in ("concat", "add_residual", "bias_only")
        for kind in ("kerple_log", "cope")
    },
    **{f"v2-{kind}": ({"kind": kind}, V2) for kind in ("rope", "alibi", "fire", "cope", "transformer_xl")},
    "v2-wide": ({"kind": "t5", "num_buckets": 8, "max_distance": 20}, {**V2, "kernel": 5}),
    "yarn-fixed": ({"kind": "yarn", "factor": 2.0, "beta": 8.0}, NONE),
    "fire-leaky": ({"kind": "fire", "activation": "leaky_relu", "initial_L": 8.0, "width": 5}, dape("concat_residual")),
    "learned-short": ({"kind": "learned", "max_positions": 9}, NONE),
    "cope-short": ({"kind": "cope", "max_positions": 5}, NONE),
    "randomized-wide": ({"kind": "randomized_rope", "range_factor": 9, "base": 50.0}, NONE),
}
"""Name -> encoding and mixer."""


def make_architecture(positions: dict[str, Any], mixer: dict[str, Any], **model: Any) -> Architecture:
    shape = {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "vocab_size": 320, "ffn_hidden_size": 48, **model}
    return Architecture.model_validate(
        {"model": shape, "positions": positions, "mixer": mixer, "training_length": LENGTH}
    )


def make_model(architecture: Architecture, seed: int = 1) -> GPT:
    """With noise on every parameter, so that nothing is zero, or one, by chance."""
    model = build_gpt(architecture, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def run_settings(architecture: Architecture, run_dir: Path, prefix: Path) -> RunSettings:
    keys = {
        "run_dir": run_dir,
        "data.prefix": prefix,
        "data.split": "60,40",
        "training.steps": 2,
        "training.sequence_length": architecture.training_length,
        "training.global_batch_size": 2,
        "training.micro_batch_size": 2,
    }
    dumped = architecture.model_dump(mode="json")
    parts = {f"{part}.{key}": value for part in ("model", "positions", "mixer") for key, value in dumped[part].items()}
    return load([], [f"{key}={'null' if value is None else value}" for key, value in {**keys, **parts}.items()])


def save_run(model: GPT, run_dir: Path, prefix: Path, steps: tuple[int, ...] = (2,)) -> Path:
    """A run folder with checkpoints of a model, as training leaves it."""
    run_dir.mkdir(parents=True)
    (run_dir / "settings.yaml").write_text(dump_yaml(run_settings(model.architecture, run_dir, prefix)))
    mesh = Mesh(Place(), torch.device("cpu"))
    writer = CheckpointWriter(run_dir / "checkpoints", mesh, CheckpointSettings(keep=len(steps)))
    writer.take_over()
    state = {"architecture": model.architecture.model_dump(mode="json")}
    for step in steps:
        writer.save(step, dict(model.named_parameters()), {}, parameter_table(model), state)
    return run_dir


@torch.no_grad()
def continue_greedily(model: GPT, prompt: torch.Tensor, count: int) -> torch.Tensor:
    """[count] ids, each the likeliest after all before it, read anew every time: prompt [s]."""
    tokens = prompt[None]
    for _ in range(count):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens[0, -count:]
