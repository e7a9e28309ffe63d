"""The benchmark of training runs in one command; what it measures is real, what is refused is named."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ("model.vocab_size=96", "model.num_layers=1", "model.hidden_size=32")
REFUSED = """
positions: {kind: kerple_log}
mixer: {kind: dape}
model: {attention_backend: sdpa}
"""


@pytest.mark.slow
def test_contestants_are_measured_and_a_refused_one_is_named(tmp_path: Path) -> None:
    """A quarter of a minute: each contestant is a process that imports torch."""
    refused = tmp_path / "refused.yaml"
    refused.write_text(REFUSED)
    command = [sys.executable, "tools/benchmark_training.py", "--device", "cpu", "--models", "demo", "--lengths", "16"]
    command += ["--positions", "rope", "dape_kerple", str(refused), "--micro-batch-tokens", "32", "--accumulation", "2"]
    command += ["--rounds", "2", "--steps", "1", "--warmup", "1", "--loss-chunk", "10", "--peak-flops", "1e12"]
    command += ["--set", *TINY, "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    with (tmp_path / "training-cpu-bf16.csv").open() as file:
        rope, dape, third = csv.DictReader(file)
    for row in (rope, dape):
        assert row["micro-batch"] == "2"
        assert row["why not"] == ""
        # two micro-batches of two sequences of 16 tokens a step
        assert float(row["tokens/s"]) * float(row["ms a step"]) / 1e3 == pytest.approx(64)
        assert float(row["MFU %"]) == pytest.approx(100 * float(row["TFLOP/s"]))
        assert float(row["peak GiB"]) > 0.05
    assert float(rope["x first"]) == 1.0
    assert float(rope["MFU %"]) == float(rope["MFU % without DAPE's term"])
    assert float(dape["MFU %"]) > float(dape["MFU % without DAPE's term"])
    assert "attention backend 'sdpa' cannot be used" in third["why not"]
    assert third["tokens/s"] == ""
    facts = json.loads((tmp_path / "training-cpu-bf16.json").read_text())
    assert facts["options"]["lengths"] == [16]
    assert "dape_kerple" in run.stdout
