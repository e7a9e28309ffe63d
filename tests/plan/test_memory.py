"""Parameter and optimizer bytes of the plan equal those of live tensors, under every engine and ZeRO stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from megadape.model import Architecture, build_gpt
from megadape.parallel.mesh import Place, open_mesh
from megadape.parallel.settings import ParallelSettings
from megadape.parallel.sharding import Sharding
from megadape.plan.memory import ZeroSizes, state_bytes
from megadape.plan.stages import build_part, parts_of
from megadape.testing import run_distributed
from megadape.training.engines.base import build_engine
from megadape.training.engines.memory import LiveBytes, measure_bytes
from megadape.training.settings import TrainingSettings

# sizes that divide by nothing, so that all padding shows; one parameter above ZeRO 3's threshold of 100,000
ARCHITECTURE = Architecture.model_validate(
    {
        "model": {"num_layers": 5, "hidden_size": 36, "num_heads": 3, "vocab_size": 3001},
        "positions": {"kind": "kerple_log"},
        "mixer": {"kind": "dape", "hidden": 7},
        "training_length": 16,
    }
)
# for two tensor-parallel ranks
EVEN = ARCHITECTURE.model_copy(
    update={"model": ARCHITECTURE.model.model_copy(update={"num_heads": 4, "vocab_size": 3002})}
)
TIED = ARCHITECTURE.model_copy(update={"model": ARCHITECTURE.model.model_copy(update={"tied_embeddings": True})})

Pair = tuple[tuple[int, int], tuple[int, int]]


def compare(architecture: Architecture, **parallel_settings: Any) -> Pair:
    """(parameters, optimizer) as planned and as they are after two updates of a real engine on this rank."""
    parallel = ParallelSettings(**parallel_settings)
    engine_name = "deepspeed" if parallel.zero else "torch"
    training = TrainingSettings(
        steps=2, sequence_length=16, global_batch_size=8, micro_batch_size=1, engine=engine_name
    )
    with open_mesh(Place.from_environment(), tp=parallel.tp, pp=parallel.pp) as mesh:
        part = parts_of(architecture, parallel)[mesh.pp.rank]
        planned = state_bytes(build_part(architecture, parallel, part), zero=parallel.zero, data_ranks=mesh.data_ranks)
        model = build_gpt(architecture, seed=0, part=part, sharding=Sharding(mesh.tp))
        engine: Any = build_engine(model, training, parallel, mesh)
        for _ in range(2):
            batches = [torch.randint(0, 3000, (1, 17)) for _ in range(8 // mesh.data_ranks)]
            engine.train_step(batches, 1e-3)
        live = measure_bytes(model, engine.optimizer)
    return (planned.parameters, planned.optimizer), (live.parameters, live.optimizer)


TWO_RANKS: list[tuple[Architecture, dict[str, Any]]] = [
    (ARCHITECTURE, {}),
    *((ARCHITECTURE, {"zero": zero}) for zero in (1, 2, 3)),
    (EVEN, {"tp": 2}),
    (EVEN, {"tp": 2, "zero": 1}),
    (ARCHITECTURE, {"pp": 2}),
    (TIED, {"pp": 2, "zero": 1}),
    (ARCHITECTURE, {"pp": 2, "zero": 1, "schedule": "interleaved"}),
    (ARCHITECTURE, {"pp": 2, "zero": 1, "schedule": "zero_bubble"}),
]


def compare_all() -> list[Pair]:
    return [compare(architecture, **settings) for architecture, settings in TWO_RANKS]


def test_torch_in_one_process_holds_what_the_plan_says() -> None:
    planned, live = compare(ARCHITECTURE)
    assert planned == live
    assert live[0] > 4 * 3001 * 36


def test_every_engine_on_two_ranks_holds_what_the_plan_says() -> None:
    """Plain torch, ZeRO 1 to 3, with tensor parallelism, with every kind of pipeline: about ten seconds."""
    for rank, pairs in enumerate(run_distributed(2, compare_all)):
        for (_, settings), (planned, live) in zip(TWO_RANKS, pairs, strict=True):
            assert planned == live, f"rank {rank} with {settings}"


@pytest.fixture
def model() -> torch.nn.Module:
    return build_part(ARCHITECTURE, ParallelSettings(), parts_of(ARCHITECTURE, ParallelSettings())[0])


def test_zero_divides_what_its_stages_say(model: torch.nn.Module) -> None:
    numbers = sum(parameter.numel() for parameter in model.parameters())
    whole = 4 * numbers
    state = [state_bytes(model, zero=zero, data_ranks=64) for zero in range(4)]
    assert (state[0].parameters, state[0].gradients, state[0].buffers) == (whole, whole, 0)
    assert state[0].optimizer == 2 * whole + 4 * len(list(model.parameters()))
    for sharded in state[1:]:
        assert sharded.optimizer == pytest.approx(3 * whole / 64, rel=0.02)  # padding
    assert state[1].gradients > whole > 32 * state[2].gradients
    assert state[3].parameters < state[2].parameters


def test_offloading_leaves_the_optimizer_to_the_cpu(model: torch.nn.Module) -> None:
    stays = state_bytes(model, zero=1, data_ranks=2)
    goes = state_bytes(model, zero=1, data_ranks=2, offload=True)
    assert (goes.optimizer, goes.on_cpu) == (0, stays.optimizer)
    assert goes.total == stays.total - stays.optimizer


def test_deepspeed_buffers_are_the_users(model: torch.nn.Module) -> None:
    sizes = ZeroSizes.from_deepspeed({"reduce_bucket_size": 1000, "stage3_param_persistence_threshold": 0})
    assert state_bytes(model, zero=1, data_ranks=2, sizes=sizes).buffers == 4000
    default, none_whole = (state_bytes(model, zero=3, data_ranks=2, sizes=s).parameters for s in (ZeroSizes(), sizes))
    small = sum(p.numel() + p.numel() % 2 for p in model.parameters() if p.numel() <= 100_000)
    assert default - none_whole == 4 * small


def test_a_tensor_that_two_names_share_counts_once() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    optimizer = torch.optim.AdamW(model.parameters())
    assert measure_bytes(model, optimizer) == LiveBytes(parameters=36, optimizer=0)
