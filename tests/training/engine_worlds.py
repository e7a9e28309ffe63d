"""Small worlds in which engines train: what the tests of this room share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from megadape.attention.mixer import DapeSettings
from megadape.model import GPT, Architecture, ModelSettings, build_gpt
from megadape.parallel.mesh import Mesh, Place, make_mesh
from megadape.parallel.settings import ParallelSettings
from megadape.parallel.sharding import Sharding
from megadape.parameters import parameter_table
from megadape.positions.kerple import KerpleLogSettings
from megadape.positions.t5 import T5Settings
from megadape.testing import run_distributed
from megadape.training.engines.base import Engine, EngineState, StepResult, build_engine
from megadape.training.optimizer import OptimizerSettings
from megadape.training.settings import TrainingSettings

BATCH, LENGTH, VOCABULARY, RATE = 8, 16, 64, 3e-3

PARTITION_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
"""DeepSpeed never partitions parameters this small, and would hide what goes wrong when it does."""


@dataclass(frozen=True)
class Case:
    """A way to train, and for how long.

    ``odd`` gives the mixer parameters that no number of ranks divides.
    """

    engine: str = "torch"
    tp: int = 1
    zero: int = 0
    steps: int = 3
    clip: float = 0.1
    micro: int = 2
    precision: str = "fp32"
    encoding: str = "kerple_log"
    odd: bool = False
    offload: bool = False
    sequence_parallel: bool = False
    checkpointing: bool = False
    loss_chunk: int = 0
    loss_scale: dict[str, float] = field(default_factory=dict)
    deepspeed: dict[str, Any] | None = None


@dataclass
class Outcome:
    """What training gave: each step, then a validation loss and the full state."""

    steps: list[StepResult]
    validation: float
    state: EngineState


ENCODINGS: dict[str, Any] = {
    "kerple_log": KerpleLogSettings(),
    "t5": T5Settings(),
}


def start(case: Case) -> tuple[GPT, Engine, Mesh]:
    """A model and its engine on this rank."""
    place = Place.from_environment()
    mesh = make_mesh(place, torch.device("cpu"), case.tp, 1)
    model = build_gpt(
        Architecture(
            model=ModelSettings(num_layers=2, hidden_size=32, num_heads=4, vocab_size=VOCABULARY),
            positions=ENCODINGS[case.encoding],
            mixer=DapeSettings(hidden=7 if case.odd else 8),
            training_length=LENGTH,
        ),
        seed=7,
        sharding=Sharding(mesh.tp, case.sequence_parallel),
        activation_checkpointing=case.checkpointing,
        loss_chunk=case.loss_chunk,
    )
    training = TrainingSettings(
        steps=99,
        sequence_length=LENGTH,
        global_batch_size=BATCH,
        micro_batch_size=case.micro,
        precision=case.precision,
        loss_scale=case.loss_scale,
        engine=case.engine,
        deepspeed=(case.deepspeed or PARTITION_ALL) if case.engine == "deepspeed" else None,
        optimizer=OptimizerSettings(clip=case.clip, eps=1e-5),
    )
    parallel = ParallelSettings(
        tp=case.tp, zero=case.zero, offload_optimizer=case.offload, sequence_parallel=case.sequence_parallel
    )
    return model, build_engine(model, training, parallel, mesh), mesh


def tokens(step: int) -> Tensor:
    """The global batch of a step."""
    return torch.randint(VOCABULARY, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(step))


def micro_batches(step: int, size: int, mesh: Mesh) -> Sequence[Tensor]:
    """This rank's share of it."""
    return tokens(step).chunk(mesh.data_ranks)[mesh.data_rank].split(size)


def join(model: GPT, mesh: Mesh, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Full tensors from the parts of the tensor-parallel ranks."""
    table = parameter_table(model)
    parts = mesh.tp.gather_objects({name: tensor.clone() for name, tensor in tensors.items()})
    return {name: table[name].join([part[name] for part in parts]) for name in tensors}


def full_state(model: GPT, engine: Engine, mesh: Mesh) -> EngineState:
    """The engine's state, whole."""
    state = engine.state()
    moments = {moment: join(model, mesh, tensors) for moment, tensors in state.moments.items()}
    return EngineState(state.updates, join(model, mesh, state.parameters), moments, state.loss_scale)


def own_state(model: GPT, state: EngineState) -> EngineState:
    """This rank's part of a whole state."""
    table = parameter_table(model)
    own = {name: table[name].take_own(tensor) for name, tensor in state.parameters.items()}
    moments = {
        moment: {name: table[name].take_own(tensor) for name, tensor in tensors.items()}
        for moment, tensors in state.moments.items()
    }
    return EngineState(state.updates, own, moments, state.loss_scale)


def train(case: Case, state: EngineState | None = None) -> Outcome:
    """Train on this rank, from a whole state or from the start."""
    model, engine, mesh = start(case)
    if state is not None:
        engine.load_state(own_state(model, state))
    first = state.updates if state is not None else 0
    results = [
        engine.train_step(micro_batches(step, case.micro, mesh), RATE) for step in range(first, first + case.steps)
    ]
    validation = float(engine.evaluate(tokens(1000)))
    return Outcome(results, validation, full_state(model, engine, mesh))


def train_all(cases: dict[str, Case]) -> bytes:
    """Several cases, one after another, on this rank."""
    return pack({name: train(case) for name, case in cases.items()})


def run_cases(ranks: int, cases: dict[str, Case]) -> dict[str, Outcome]:
    """What the first rank of a world saw of each case."""
    outcomes: dict[str, Outcome] = unpack(run_distributed(ranks, train_all, cases)[0])
    return outcomes


def pack(value: Any) -> bytes:
    """For another process: a tensor as it is would outlive its own."""
    packed = io.BytesIO()
    torch.save(value, packed)
    return packed.getvalue()


def unpack(packed: bytes) -> Any:
    """What a rank packed."""
    return torch.load(io.BytesIO(packed), weights_only=False)


def assert_equal(got: Outcome, expected: Outcome, *, relative: float = 1e-5, absolute: float = 2e-5) -> None:
    """The same losses, norms and final tensors."""
    for ours, theirs in zip(got.steps, expected.steps, strict=True):
        assert abs(ours.loss - theirs.loss) <= relative * abs(theirs.loss), (ours, theirs)
        assert abs(ours.grad_norm - theirs.grad_norm) <= 10 * relative * abs(theirs.grad_norm), (ours, theirs)
        assert (ours.skipped, ours.loss_scale) == (theirs.skipped, theirs.loss_scale)
    assert abs(got.validation - expected.validation) <= relative * abs(expected.validation)
    assert_equal_states(got.state, expected.state, absolute=absolute)


def assert_equal_states(got: EngineState, expected: EngineState, *, absolute: float = 0.0) -> None:
    """The same tensors; ``absolute`` 0: bit for bit."""
    assert got.updates == expected.updates
    assert got.loss_scale == expected.loss_scale
    for ours, theirs in [(got.parameters, expected.parameters)] + [
        (got.moments[moment], expected.moments[moment]) for moment in expected.moments
    ]:
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert ours[name].dtype == torch.float32
            if name.endswith("b2") and absolute:  # softmax does not see it: rounding, which Adam makes large
                continue
            torch.testing.assert_close(
                ours[name], tensor, rtol=absolute, atol=absolute, msg=lambda text, name=name: f"{name}: {text}"
            )
