"""Small models trained through pipelines and in one process: what the tests of pipelines share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import distributed

from megadape.model import GPT, Architecture, build_gpt
from megadape.parallel.group import Group
from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.parallel.settings import ParallelSettings
from megadape.parallel.sharding import Sharding
from megadape.parameters import parameter_table
from megadape.testing import run_distributed
from megadape.training.engines.base import Engine, StepResult, build_engine
from megadape.training.pipeline.placement import part_of
from megadape.training.settings import TrainingSettings

LENGTH, BATCH, VOCABULARY, STEPS = 16, 8, 64, 5
RATE = 1e-3
Arrays = dict[str, NDArray[np.float32]]
"""Not tensors: those would be passed by handles to a process that may be gone."""


@dataclass(frozen=True)
class Case:
    """One run. Models are compared over all runs with the same first fields."""

    positions: str
    mixer: str = "none"
    tied: bool = False
    precision: str = "fp32"
    evaluations: tuple[int, ...] = ()
    """Lengths evaluated after every step."""

    layers: int = 4

    separate: bool = False
    """Whether the token 0 ends documents that are kept apart."""

    checkpointing: bool = False
    engine: str = "torch"
    parallel: Mapping[str, Any] = field(default_factory=dict)

    @property
    def architecture(self) -> Architecture:
        return Architecture.model_validate(
            {
                "model": {
                    "num_layers": self.layers,
                    "hidden_size": 32,
                    "num_heads": 4,
                    "vocab_size": VOCABULARY,
                    "tied_embeddings": self.tied,
                    **({"documents": "separate", "end_of_document": 0} if self.separate else {}),
                },
                "positions": {"kind": self.positions},
                "mixer": {"kind": self.mixer},
                "training_length": LENGTH,
            }
        )

    @property
    def training(self) -> TrainingSettings:
        # clipping at 0.1 acts at every step; eps keeps what has no gradient but rounding from moving
        return TrainingSettings.model_validate(
            {
                "steps": STEPS,
                "sequence_length": LENGTH,
                "global_batch_size": BATCH,
                "micro_batch_size": 1,
                "engine": self.engine,
                "precision": self.precision,
                "activation_checkpointing": self.checkpointing,
                "optimizer": {"learning_rate": RATE, "clip": 0.1, "eps": 1e-5},
            }
        )


@dataclass
class Outcome:
    losses: list[float]
    norms: list[float]
    evaluations: list[float]
    parameters: Arrays
    """Of this rank: its tensor-parallel part of its stages."""


def start(case: Case, mesh: Mesh, training: TrainingSettings | None = None) -> tuple[GPT, Engine]:
    parallel, training = ParallelSettings.model_validate(case.parallel), training or case.training
    model = build_gpt(
        case.architecture,
        seed=7,
        sharding=Sharding(mesh.tp, parallel.sequence_parallel),
        part=part_of(case.architecture, parallel, mesh.pp.rank),
        activation_checkpointing=case.checkpointing,
    ).train()
    model.position_streams.seed(5)
    return model, build_engine(model, training, parallel, mesh)


def step(engine: Engine, mesh: Mesh, index: int) -> StepResult:
    """The same global batch for the same index, whatever the ranks."""
    batch = torch.randint(VOCABULARY, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(index))
    own = batch.view(-1, mesh.data_ranks, 1, LENGTH + 1)[:, mesh.data_rank]
    return engine.train_step(list(own), RATE)


def train(case: Case, mesh: Mesh) -> Outcome:
    model, engine = start(case, mesh)
    outcome = Outcome([], [], [], {})
    for index in range(STEPS):
        result = step(engine, mesh, index)
        outcome.losses.append(result.loss)
        outcome.norms.append(result.grad_norm)
        model.eval()
        for length in case.evaluations:
            tokens = torch.randint(VOCABULARY, (2, length + 1), generator=torch.Generator().manual_seed(length))
            outcome.evaluations.append(float(engine.evaluate(tokens)))
        model.train()
    outcome.parameters = arrays(engine.state().parameters)
    return outcome


def arrays(tensors: Mapping[str, torch.Tensor]) -> Arrays:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def mesh_of(case: Case) -> Mesh:
    place = Place(distributed.get_rank(), distributed.get_world_size())
    sizes = {axis: case.parallel.get(axis, 1) for axis in ("tp", "pp")}
    return make_mesh(place, torch.device("cpu"), **sizes)


def train_here(cases: Sequence[Case]) -> list[tuple[int, Outcome]]:
    """On one of several ranks: its tensor-parallel rank, and what came out."""
    meshes = [mesh_of(case) for case in cases]
    return [(mesh.tp.rank, train(case, mesh)) for case, mesh in zip(cases, meshes, strict=True)]


def alone(case: Case) -> Outcome:
    """One process, plain torch."""
    return _alone(case.positions, case.mixer, case.tied, case.precision, case.evaluations, case.layers, case.separate)


@cache
def _alone(*model: Any) -> Outcome:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train(Case(*model), Mesh(Place(), torch.device("cpu")))
    finally:
        torch.set_num_threads(threads)


def check(ranks: int, cases: Sequence[Case]) -> list[list[Outcome]]:
    """Train all cases on so many ranks, and compare each rank with one process. Outcomes by rank and case."""
    results = run_distributed(ranks, train_here, list(cases), timeout=800)
    for by_case in results:
        for case, (tp_rank, outcome) in zip(cases, by_case, strict=True):
            compare(case, tp_rank, outcome, alone(case))
    return [[outcome for _, outcome in by_case] for by_case in results]


def compare(case: Case, tp_rank: int, outcome: Outcome, wanted: Outcome) -> None:
    within = tolerance(case)
    assert outcome.losses == pytest.approx(wanted.losses, rel=1e-5), case
    assert outcome.norms == pytest.approx(wanted.norms, rel=within), case
    assert outcome.evaluations == pytest.approx(wanted.evaluations, rel=1e-5), case
    own = slices(case, tp_rank, wanted.parameters)
    assert outcome.parameters.keys() <= own.keys()
    for name, value in outcome.parameters.items():
        error = norm(value - own[name]) / max(norm(own[name]), 1e-3)
        assert error < within, f"{case}: {name} differs by {error:.1e}"


def tolerance(case: Case) -> float:
    """Relative. DeepSpeed clips by a float32 norm: a weight that differs in its last bit may round to another half."""
    return 1e-5 if case.precision == "fp32" or case.engine == "torch" else 2e-3


def norm(values: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(values))


def slices(case: Case, tp_rank: int, full: Arrays) -> Arrays:
    """A tensor-parallel rank's parts of full parameters."""
    if case.parallel.get("tp", 1) == 1:
        return full
    with torch.device("meta"):
        model = GPT(case.architecture, sharding=Sharding(Group(tuple(range(case.parallel["tp"])), tp_rank)))
    table = parameter_table(model)
    return {name: table[name].take_own(torch.from_numpy(value)).numpy() for name, value in full.items()}
