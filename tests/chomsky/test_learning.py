"""A small encoder learns a task."""

from __future__ import annotations

from pathlib import Path

import pytest

from megadape.chomsky.experiment import run_experiment
from megadape.chomsky.settings import ExperimentSettings


@pytest.mark.slow
def test_even_pairs_is_learnt_at_the_training_lengths(tmp_path: Path) -> None:
    settings = ExperimentSettings.model_validate(
        {
            "task": "even_pairs",
            "method": {"positions": {"kind": "rope"}},
            "seed": 1,
            "encoder": {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "norm": "pre", "dropout": 0.0},
            "training": {"steps": 500, "batch_size": 64, "warmup_steps": 50, "save_every": 500},
            "scoring": {"lengths": {"first": 41, "last": 101, "stride": 30}, "sequences": 128},
            "device": "cpu",
        }
    )
    result = run_experiment(settings, tmp_path, lambda done, total, note: None)
    assert result.training_accuracy > 0.95
    assert result.accuracy > result.chance
