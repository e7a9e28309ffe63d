"""The DeepSpeed engine equals plain torch, in one process and in two; a stopped and resumed run equals one that was
not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from megadape.checkpoint import CheckpointFolder
from megadape.config import load
from megadape.testing import run_distributed
from megadape.training.launch import train

STEPS = 20

WHOLLY_PARTITIONED = "{zero_optimization: {stage3_param_persistence_threshold: 0}}"
"""DeepSpeed never partitions parameters this small unless told to."""

ZERO_3 = {"training__engine": "deepspeed", "parallel__zero": 3, "training__deepspeed": WHOLLY_PARTITIONED}


class Quiet:
    """A reporter that keeps what it heard."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def message(self, text: str) -> None:
        self.heard.append(text)

    def step(self, row: Any, steps: int) -> None:
        pass


def overrides(prefix: Path, run_dir: Path, **more: Any) -> list[str]:
    keys = {
        "run_dir": run_dir,
        "data.prefix": prefix,
        "data.split": "80,20",
        "model.num_layers": 2,
        "model.hidden_size": 32,
        "model.num_heads": 4,
        "positions.kind": "kerple_log",
        "mixer.kind": "dape",
        "mixer.hidden": 8,
        "training.steps": STEPS,
        "training.sequence_length": 32,
        "training.global_batch_size": 8,
        "training.micro_batch_size": 2,
        "training.optimizer.learning_rate": "3e-3",
        "training.optimizer.clip": 0.5,
    } | {key.replace("__", "."): value for key, value in more.items()}
    return [f"{key}={value}" for key, value in keys.items()]


def run(prefix: str, run_dir: str, settings: dict[str, Any], stop: int | None = None) -> list[dict[str, Any]]:
    """Train in this process (a rank or the only one) and return the metrics."""
    loaded = load([], overrides(Path(prefix), Path(run_dir), **settings))
    train(loaded, "", Quiet(), stop)
    return rows(Path(run_dir))


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def final_tensors(run_dir: Path, name: str = "model") -> dict[str, torch.Tensor]:
    newest = CheckpointFolder(run_dir / "checkpoints").newest()
    assert newest is not None
    return newest.tensors(name)


def assert_equal_runs(got: Path, expected: Path) -> None:
    pairs = list(zip(rows(got), rows(expected), strict=True))
    for ours, theirs in pairs:
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    assert len(pairs) == STEPS
    for name in ("model", "optimizer"):
        tensors, reference = final_tensors(got, name), final_tensors(expected, name)
        assert tensors.keys() == reference.keys()
        for key, tensor in reference.items():
            if key.endswith("b2"):  # softmax does not see it: its gradient is rounding, which Adam makes large
                continue
            torch.testing.assert_close(
                tensors[key], tensor, rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by plain torch in one process."""
    folder = tmp_path_factory.mktemp("reference")
    losses = [row["loss"] for row in run(str(corpus), str(folder), {})]
    assert losses[-1] < losses[0] - 0.2  # it learns
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (1, {"training__engine": "deepspeed"}),
        (1, {"training__engine": "deepspeed", "parallel__zero": 1}),
        (2, {"training__engine": "torch"}),
        (2, {"training__engine": "deepspeed"}),
        (2, {"training__engine": "deepspeed", "parallel__zero": 1}),
        (2, {"training__engine": "deepspeed", "parallel__zero": 2}),
        (2, ZERO_3),
    ],
    ids=lambda value: str(value),
)
def test_every_engine_equals_plain_torch(
    ranks: int, settings: dict[str, Any], corpus: Path, reference: Path, tmp_path: Path
) -> None:
    run_distributed(ranks, run, str(corpus), str(tmp_path / "run"), settings)
    assert_equal_runs(tmp_path / "run", reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (1, {"model__dropout": 0.1, "positions__kind": "randomized_rope", "validation__every": 7}),
        (1, {"training__engine": "deepspeed", "parallel__zero": 1}),
        (2, {"training__engine": "deepspeed", "parallel__zero": 1, "model__dropout": 0.1}),
        (2, {"training__engine": "deepspeed", "model__attention_dropout": 0.1}),
        (2, {"training__engine": "deepspeed", "parallel__zero": 2, "training__precision": "bf16"}),
        (2, ZERO_3 | {"model__dropout": 0.1, "validation__every": 7}),
        (2, {"training__precision": "fp16", "training__loss_scale__growth_interval": 3}),
        (2, ZERO_3 | {"training__precision": "fp16", "training__loss_scale__growth_interval": 3}),
    ],
    ids=lambda value: str(value),
)
def test_ten_and_ten_steps_equal_twenty_bit_for_bit(
    ranks: int, settings: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_distributed(ranks, run, str(corpus), str(whole), settings)
    run_distributed(ranks, run, str(corpus), str(parts), settings, 10)
    assert len(rows(parts)) == 10
    run_distributed(ranks, run, str(corpus), str(parts), settings)
    kept = ("step", "loss", "grad_norm", "learning_rate", "consumed_samples", "validation_loss")
    assert [{k: row.get(k) for k in kept} for row in rows(parts)] == [
        {k: row.get(k) for k in kept} for row in rows(whole)
    ]
    for name in ("model", "optimizer"):
        expected, got = final_tensors(whole, name), final_tensors(parts, name)
        assert expected.keys() == got.keys()
        assert all(torch.equal(got[key], expected[key]) for key in expected)


def test_accumulation_changes_nothing(corpus: Path, reference: Path, tmp_path: Path) -> None:
    run(str(corpus), str(tmp_path), {"training__micro_batch_size": 8})
    assert_equal_runs(tmp_path, reference)


def test_bf16_stays_near_fp32(corpus: Path, reference: Path, tmp_path: Path) -> None:
    half = run(str(corpus), str(tmp_path), {"training__precision": "bf16"})
    for ours, theirs in zip(half, rows(reference), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)
    assert final_tensors(tmp_path)["embedding.weight"].dtype == torch.float32
