"""A small trained run to evaluate."""

from __future__ import annotations

from pathlib import Path

import pytest

from megadape.config import dump_yaml, load
from megadape.config.run import RunSettings
from megadape.testing import Silent
from megadape.training.launch import train


def make_run(run_dir: Path, corpus: Path, steps: int = 2, seed: int = 1) -> RunSettings:
    keys = {
        "run_dir": run_dir,
        "seed": seed,
        "data.prefix": corpus,
        "data.split": "60,40",
        "model.num_layers": 2,
        "model.hidden_size": 16,
        "model.num_heads": 2,
        "positions.kind": "kerple_log",
        "mixer": "{kind: dape, hidden: 4}",
        "training.steps": steps,
        "training.sequence_length": 32,
        "training.global_batch_size": 2,
        "training.micro_batch_size": 2,
    }
    run = load([], [f"{key}={value}" for key, value in keys.items()])
    train(run, dump_yaml(run), Silent())
    return run


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    """Not to be written to: copy its folder."""
    return make_run(tmp_path_factory.mktemp("evaluation") / "run", corpus)
