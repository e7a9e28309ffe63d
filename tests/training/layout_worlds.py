"""Training on any layout, for tests: one small model of each kind, and what every rank saw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megadape.model import Architecture, build_gpt
from megadape.parallel.mesh import Mesh
from megadape.parallel.settings import ParallelSettings
from megadape.parallel.sharding import Sharding
from megadape.parameters import ParameterSpec, constant, parameter_table
from megadape.training.engines.base import build_engine
from megadape.training.pipeline.placement import part_of
from megadape.training.settings import TrainingSettings

STEPS, BATCH, LENGTH = 10, 8, 16
MODELS = [(kind, mixer) for kind in ("rope", "alibi", "kerple_log", "fire", "t5") for mixer in ("none", "dape")]
RICHEST = [("kerple_log", "dape"), ("t5", "dape")]
Layout = tuple[int, int, int]
"""tp, pp, dp."""
Case = tuple[tuple[str, str], Layout, str, dict[str, Any]]
"""Model, layout, engine, further parallel settings and the micro-batch (micro)."""


def architecture(model: tuple[str, str], layers: int = 4) -> Architecture:
    kind, mixer = model
    return Architecture.model_validate(
        {
            "model": {
                "num_layers": layers,
                "hidden_size": 32,
                "num_heads": 4,
                "vocab_size": 64,
                "tied_embeddings": kind == "t5",
            },
            "positions": {"kind": kind},
            "mixer": {"kind": mixer},
            "training_length": LENGTH,
        }
    )


def training(engine: str, micro: int) -> TrainingSettings:
    # clipping at 0.1 acts at every step; eps keeps what has no gradient but rounding from moving
    return TrainingSettings.model_validate(
        {
            "steps": STEPS,
            "sequence_length": LENGTH,
            "global_batch_size": BATCH,
            "micro_batch_size": micro,
            "engine": engine,
            "optimizer": {"learning_rate": 1e-3, "clip": 0.1, "eps": 1e-4},
        }
    )


def join(own: dict[str, Tensor], table: dict[str, ParameterSpec], mesh: Mesh) -> dict[str, Tensor] | None:
    """Full parameters on the first rank, from the parts of all stages and tensor-parallel ranks."""
    held = mesh.model.gather_objects({name: value.numpy() for name, value in own.items()})
    specs = mesh.model.gather_objects({name: (s.shape, s.shard_axis, s.blocks) for name, s in table.items()})
    if not mesh.is_first:
        return None
    full: dict[str, Tensor] = {}
    for first in range(0, mesh.model.size, mesh.tp.size):
        for name, (shape, axis, blocks) in specs[first].items():
            spec = ParameterSpec(shape, constant(0.0), axis, blocks=blocks)
            parts = [torch.from_numpy(held[first + rank][name]) for rank in range(mesh.tp.size)]
            full.setdefault(name, spec.join(parts))
    return full


def layers_for(case: Case) -> int:
    """As few as the stages allow."""
    return max(2, case[1][1])


def train(mesh: Mesh, case: Case, layers: int | None = None) -> tuple[list[float], dict[str, Tensor] | None]:
    """Losses, and full parameters on the first rank."""
    model, (tp, pp, _), engine_name, more = case
    # one micro-batch a stage, few layers: ranks that share two cores lose milliseconds at every collective
    micro, shape = more.get("micro", BATCH // (mesh.data_ranks * pp)), architecture(model, layers or layers_for(case))
    parallel = ParallelSettings.model_validate({"tp": tp, "pp": pp} | {k: v for k, v in more.items() if k != "micro"})
    sharding = Sharding(mesh.tp, parallel.sequence_parallel, parallel.mixing)
    part = part_of(shape, parallel, mesh.pp.rank)
    gpt = build_gpt(shape, seed=7, sharding=sharding, part=part).train()
    table = parameter_table(gpt)
    engine = build_engine(gpt, training(engine_name, micro), parallel, mesh)
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(STEPS):
        batch = torch.randint(64, (BATCH, LENGTH + 1), generator=generator)
        own = list(batch.view(-1, mesh.data_ranks, micro, LENGTH + 1)[:, mesh.data_rank])
        losses.append(engine.train_step(own, 1e-3).loss)
    return losses, join(engine.state().parameters, table, mesh)


def factorings(ranks: int) -> list[Layout]:
    return [
        (tp, pp, ranks // tp // pp)
        for tp in range(1, ranks + 1)
        for pp in range(1, ranks + 1)
        if ranks % (tp * pp) == 0
    ]
