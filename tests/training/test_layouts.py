"""Every layout trains the model that one process trains: losses of ten steps and the final parameters, in float32.

All factorings of 2 and 4 ranks, plain torch and DeepSpeed's ZeRO 0 to 3; 8 ranks once (slow: about 40 s).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from megadape.model import Architecture, build_gpt
from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.parallel.settings import ParallelSettings
from megadape.parallel.sharding import Sharding
from megadape.parameters import ParameterSpec, constant, parameter_table
from megadape.testing import run_distributed
from megadape.training.engines.base import build_engine
from megadape.training.pipeline.placement import part_of
from megadape.training.settings import TrainingSettings

STEPS, BATCH, LENGTH, LAYERS = 10, 8, 16, 4
MODELS = [(kind, mixer) for kind in ("rope", "alibi", "kerple_log", "fire", "t5") for mixer in ("none", "dape")]
RICHEST = [("kerple_log", "dape"), ("t5", "dape")]
Layout = tuple[int, int, int]
"""tp, pp, dp."""
Case = tuple[tuple[str, str], Layout, str, dict[str, Any]]
"""Model, layout, engine, further parallel settings and the micro-batch (micro)."""


def architecture(model: tuple[str, str]) -> Architecture:
    kind, mixer = model
    return Architecture.model_validate(
        {
            "model": {
                "num_layers": LAYERS,
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


def train(mesh: Mesh, case: Case) -> tuple[list[float], dict[str, Tensor] | None]:
    """Losses, and full parameters on the first rank."""
    model, (tp, pp, _), engine_name, more = case
    # two micro-batches, or one a stage: ranks that share two cores lose milliseconds at every collective
    micro = more.get("micro", BATCH // (mesh.data_ranks * max(2, pp)))
    parallel = ParallelSettings.model_validate({"tp": tp, "pp": pp} | {k: v for k, v in more.items() if k != "micro"})
    sharding = Sharding(mesh.tp, parallel.sequence_parallel, parallel.mixing)
    part = part_of(architecture(model), parallel, mesh.pp.rank)
    gpt = build_gpt(architecture(model), seed=7, sharding=sharding, part=part).train()
    table = parameter_table(gpt)
    engine = build_engine(gpt, training(engine_name, micro), parallel, mesh)
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(STEPS):
        batch = torch.randint(64, (BATCH, LENGTH + 1), generator=generator)
        own = list(batch.view(-1, mesh.data_ranks, micro, LENGTH + 1)[:, mesh.data_rank])
        losses.append(engine.train_step(own, 1e-3).loss)
    return losses, join(engine.state().parameters, table, mesh)


def train_cases(cases: list[Case]) -> list[tuple[list[float], dict[str, Tensor] | None]]:
    place = Place(distributed.get_rank(), distributed.get_world_size())
    return [train(make_mesh(place, torch.device("cpu"), tp=case[1][0], pp=case[1][1]), case) for case in cases]


@cache
def alone(model: tuple[str, str]) -> tuple[list[float], dict[str, Tensor]]:
    losses, parameters = train(Mesh(Place(), torch.device("cpu")), (model, (1, 1, 1), "torch", {}))
    assert parameters is not None
    return losses, parameters


def check(ranks: int, cases: list[Case], timeout: float = 280) -> None:
    results = run_distributed(ranks, train_cases, cases, timeout=timeout)
    for rank, by_case in enumerate(results):
        for case, (losses, parameters) in zip(cases, by_case, strict=True):
            wanted_losses, wanted = alone(case[0])
            assert losses == pytest.approx(wanted_losses, rel=1e-5), f"{case} on rank {rank}"
            assert (parameters is not None) == (rank == 0)
            if parameters is None:
                continue
            assert parameters.keys() == wanted.keys(), case
            for name, value in wanted.items():
                assert value.shape == parameters[name].shape
                error = (value - parameters[name]).norm() / value.norm().clamp(min=0.05)
                assert error < 1e-5, f"{case}: {name} differs by {error:.1e}"


def factorings(ranks: int) -> list[Layout]:
    return [
        (tp, pp, ranks // tp // pp)
        for tp in range(1, ranks + 1)
        for pp in range(1, ranks + 1)
        if ranks % (tp * pp) == 0
    ]


@pytest.mark.parametrize("ranks", [2, 4])
def test_plain_torch_on_every_factoring(ranks: int) -> None:
    layouts = factorings(ranks)
    assert len(layouts) == {2: 3, 4: 6}[ranks]
    cases: list[Case] = [(model, layout, "torch", {}) for model in MODELS for layout in layouts]
    cases += [(("kerple_log", "dape"), layout, "torch", {"mixing": "heads"}) for layout in layouts if layout[0] > 1]
    cases += [(("t5", "dape"), layout, "torch", {"sequence_parallel": True}) for layout in layouts if layout[0] > 1]
    cases += [(("rope", "none"), (1, ranks, 1), "torch", {"micro": BATCH})]  # fewer micro-batches than stages
    check(ranks, cases)


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_zero_stage_on_every_factoring(ranks: int) -> None:
    cases: list[Case] = []
    for layout in factorings(ranks):
        for zero in range(4) if layout[1] == 1 else [1]:
            cases += [(model, layout, "deepspeed", {"zero": zero}) for model in RICHEST]
    check(ranks, cases)


def test_every_model_with_every_zero_stage() -> None:
    others = [model for model in MODELS if model not in RICHEST]
    check(2, [(model, (1, 1, 2), "deepspeed", {"zero": zero}) for model in others for zero in (1, 3)])


@pytest.mark.slow
def test_eight_ranks() -> None:
    """About 40 s: eight processes."""
    layout = (2, 2, 2)
    more: dict[str, Any] = {"zero": 1, "sequence_parallel": True}
    check(8, [(("kerple_log", "dape"), layout, "torch", {}), (("t5", "dape"), layout, "deepspeed", more)])
