"""What is written for DeepSpeed, DeepSpeed loads: every ZeRO stage, other ranks, tensor parallelism with blocks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from example_states import MOMENTS, alone, full_tensor, mesh_of, open_writer

from megadape.checkpoint.folder import CheckpointFolder
from megadape.checkpoint.universal import write_universal
from megadape.errors import CheckpointError
from megadape.faults import VARIABLE
from megadape.model import GPT, Architecture, build_gpt
from megadape.parallel.sharding import Sharding
from megadape.parameters import parameter_table
from megadape.testing import run_distributed

ARCHITECTURE = Architecture.model_validate(
    {
        "model": {"num_layers": 2, "hidden_size": 16, "num_heads": 4, "vocab_size": 32},
        "positions": {"kind": "kerple_log"},
        "mixer": {"kind": "dape", "hidden": 8},
        "training_length": 8,
    }
)
UPDATES = 5


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("universal")
    table = parameter_table(build_gpt(ARCHITECTURE, seed=1))
    parameters = {name: full_tensor(name, spec, UPDATES) for name, spec in table.items()}
    moments = {
        m: {name: full_tensor(f"{m}/{name}", spec, UPDATES).abs() for name, spec in table.items()} for m in MOMENTS
    }
    writer = open_writer(root / "checkpoints", alone())
    writer.take_over()
    state = {"updates": UPDATES, "progress": {"consumed_samples": 40}}
    assert writer.save(UPDATES, parameters, moments, table, state)
    checkpoint = CheckpointFolder(root / "checkpoints").newest()
    assert checkpoint is not None
    assert write_universal(checkpoint, root / "out").name == "global_step5_universal"
    return root / "out"


def load_with_deepspeed(out: Path, stage: int, tp: int, bf16: bool) -> tuple[int, int]:
    """What DeepSpeed's engine holds after ``load_checkpoint`` is this rank's part of what was saved."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    from megadape.training.engines.deepspeed_setup import MeshTopology, import_deepspeed, mark_tensor_parallel

    class Topology(MeshTopology):
        """With what a universal load asks for besides."""

        get_tensor_model_parallel_rank = MeshTopology.get_model_parallel_rank
        get_tensor_model_parallel_world_size = MeshTopology.get_model_parallel_world_size

    from megadape.training.optimizer import decay_groups

    mesh = mesh_of((tp, 1, 2 // tp))
    deepspeed: Any = import_deepspeed(mesh.device)
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    model = build_gpt(ARCHITECTURE, seed=2, sharding=Sharding(mesh.tp))
    mark_tensor_parallel(model, mesh)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "checkpoint": {"load_universal": True},
        **({"bf16": {"enabled": True}} if bf16 else {}),
    }
    if bf16:
        model = model.bfloat16()
    optimizer = torch.optim.AdamW(decay_groups(model, 0.1), lr=1e-3, fused=True)  # type: ignore[arg-type]
    table, names = parameter_table(model), dict(model.named_parameters())
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, mpu=Topology(mesh), config=config)
    path, _ = engine.load_checkpoint(str(out))
    assert path is not None
    for name, parameter in names.items():
        wanted = table[name].take_own(full_tensor(name, table[name], UPDATES))
        assert torch.equal(safe_get_full_fp32_param(parameter).view(wanted.shape), wanted), name
        for moment in MOMENTS:
            wanted = table[name].take_own(full_tensor(f"{moment}/{name}", table[name], UPDATES).abs())
            assert torch.equal(safe_get_full_optimizer_state(parameter, moment).view(wanted.shape), wanted), name
    steps = {int(state["step"]) for state in optimizer.state.values()}
    assert steps == {UPDATES}
    return engine.global_steps, engine.global_samples


CASES = {
    "ZeRO 1": (1, 1, False),
    "ZeRO 2": (2, 1, False),
    "ZeRO 3": (3, 1, False),
    "ZeRO 1 in bfloat16": (1, 1, True),
    "ZeRO 1, tensor-parallel": (1, 2, False),
}


@pytest.mark.parametrize(("stage", "tp", "bf16"), CASES.values(), ids=CASES.keys())
def test_deepspeed_loads_it(converted: Path, stage: int, tp: int, bf16: bool) -> None:
    assert run_distributed(2, load_with_deepspeed, converted, stage, tp, bf16) == [(UPDATES, 40)] * 2


def test_what_is_there_is_not_overwritten(converted: Path) -> None:
    checkpoint = CheckpointFolder(converted.parent / "checkpoints").newest()
    assert checkpoint is not None
    with pytest.raises(CheckpointError, match="is there already"):
        write_universal(checkpoint, converted)


def test_without_moments_it_says_so(tmp_path: Path) -> None:
    model = GPT(ARCHITECTURE)
    writer = open_writer(tmp_path, alone())
    writer.take_over()
    writer.save(0, dict(model.named_parameters()), {}, parameter_table(model), {})
    checkpoint = CheckpointFolder(tmp_path).newest()
    assert checkpoint is not None
    with pytest.raises(CheckpointError, match="has no exp_avg and no exp_avg_sq"):
        write_universal(checkpoint, tmp_path / "out")
    assert VARIABLE not in os.environ
