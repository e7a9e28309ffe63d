"""Evaluation at 8192 fits in 2 GB."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import numpy, torch
from megadape.evaluation.extrapolation import evaluate_lengths
from megadape.evaluation.settings import EvaluationSettings
from megadape.machine import peak_resident_bytes
from megadape.model import Architecture, build_gpt
model = {"num_layers": 1, "hidden_size": 768, "num_heads": 12, "vocab_size": 50304}
architecture = Architecture.model_validate(
    {"model": model, "positions": {"kind": "kerple_log"}, "mixer": {"kind": "dape"}, "training_length": 512}
)
stream = numpy.random.default_rng(0).integers(0, 50304, 8193)
settings = EvaluationSettings(lengths=(8192,), mode="all", sequences=1)
model = build_gpt(architecture, seed=0)
results = evaluate_lengths(model, stream, numpy.ones(50304), settings, device=torch.device("cpu"))
print(results.results[0].tokens, peak_resident_bytes())
"""


@pytest.mark.slow
def test_the_125m_shape_at_8192_in_2_gb() -> None:
    """One layer: the others take no more at a time. About twenty seconds."""
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    tokens, peak = map(int, result.stdout.split())
    assert tokens == 8192
    assert peak < 2e9
