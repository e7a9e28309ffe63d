"""Perplexity at lengths: what is reported is what the logits say, in any batches, at any length."""

from __future__ import annotations

import subprocess
import sys
from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch

from megadape.evaluation.extrapolation import evaluate_lengths
from megadape.evaluation.results import Extrapolation
from megadape.evaluation.settings import EvaluationSettings
from megadape.evaluation.windows import MODES, plan_windows
from megadape.model import GPT, Architecture, build_gpt

VOCABULARY = 31
STREAM = np.random.default_rng(0).integers(0, VOCABULARY, 400)
BYTES = np.random.default_rng(1).integers(0, 5, VOCABULARY)


def small_model(layers: int = 2, width: int = 32, kind: str = "kerple_log") -> GPT:
    shape = {"num_layers": layers, "hidden_size": width, "num_heads": 2, "vocab_size": VOCABULARY}
    mixer = {"kind": "dape", "hidden": 4}
    architecture = {"model": shape, "positions": {"kind": kind}, "mixer": mixer, "training_length": 16}
    return build_gpt(Architecture.model_validate(architecture), seed=3).eval()


def evaluate(model: GPT, **settings: Any) -> Extrapolation:
    return evaluate_lengths(model, STREAM, BYTES, EvaluationSettings(**settings), device=torch.device("cpu"))


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_results_are_what_the_logits_say(mode: str) -> None:
    model, lengths = small_model().double(), (8, 50, 21)
    results = evaluate(model, mode=mode, lengths=lengths, last_k=12, sequences=5, batch_tokens=60)
    assert (results.mode, results.training_length) == (mode, 16)
    assert [row.length for row in results.results] == sorted(lengths)
    for windows, row in zip(plan_windows(mode, 5 * 50 + 1, lengths, 12, 5), results.results, strict=True):
        losses, text_bytes = [], 0
        for index in range(len(windows.ends)):
            tokens = torch.from_numpy(windows.tokens(STREAM, index))
            predicted = model(tokens[None, :-1])[0].log_softmax(-1)
            losses.append([-predicted[i, tokens[i + 1]].item() for i in range(windows.length)][-windows.scored :])
            text_bytes += sum(int(BYTES[token]) for token in tokens[-windows.scored :])
        assert row.sequence_losses == pytest.approx([np.mean(each) for each in losses], rel=1e-6)
        assert row.loss == pytest.approx(np.mean(losses), rel=1e-6)
        assert row.perplexity == pytest.approx(exp(np.mean(losses)), rel=1e-6)
        assert row.bits_per_byte == pytest.approx(np.sum(losses) / log(2) / text_bytes, rel=1e-6)
        assert (row.tokens, row.sequences) == (np.size(losses), len(losses))


def test_results_do_not_depend_on_how_much_is_fed_at_once() -> None:
    model = small_model()
    one, many = (evaluate(model, lengths=(7, 40), sequences=6, mode="all", batch_tokens=size) for size in (1, 1000))
    for a, b in zip(one.results, many.results, strict=True):
        assert a.sequence_losses == pytest.approx(b.sequence_losses, rel=1e-5)


def test_progress_counts_every_token_fed() -> None:
    told: list[tuple[int, int]] = []
    settings = EvaluationSettings(lengths=(8, 32), sequences=4, mode="all", batch_tokens=32)
    model, device = small_model(), torch.device("cpu")
    evaluate_lengths(model, STREAM, BYTES, settings, device=device, progress=lambda *seen: told.append(seen))
    assert [total for _, total in told] == [4 * 8 + 4 * 32] * 5
    fed = [done for done, _ in told]
    assert fed == sorted(fed)
    assert fed[-1] == told[-1][1]


def test_a_model_that_gives_no_numbers_is_told_as_such() -> None:
    model = small_model()
    with torch.no_grad():
        model.output_weight().fill_(float("nan"))
    (row,) = evaluate(model, lengths=(8,), sequences=2, mode="all").results
    assert row.perplexity == float("inf")
    assert np.isnan(row.loss)


LONG = """
import numpy, torch
from megadape.evaluation.extrapolation import evaluate_lengths
from megadape.evaluation.passkey.reading import score_keys
from megadape.evaluation.settings import EvaluationSettings
from megadape.machine import peak_resident_bytes
from megadape.model import Architecture, build_gpt
shape = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "vocab_size": 257}
architecture = Architecture.model_validate(
    {"model": shape, "positions": {"kind": "kerple_log"}, "mixer": {"kind": "dape", "hidden": 4}, "training_length": 32}
)
model = build_gpt(architecture, seed=0).eval()
stream, settings = numpy.arange(16385) % 257, EvaluationSettings(lengths=(16384,), mode="all", sequences=1)
before = peak_resident_bytes()
results = evaluate_lengths(model, stream, numpy.ones(257), settings, device=torch.device("cpu"))
losses, _ = score_keys(model, torch.from_numpy(stream[None, :8192]), torch.arange(20).view(1, 4, 5))
print(results.results[0].tokens, losses.shape[1], peak_resident_bytes() - before)
"""


@pytest.mark.slow
def test_long_texts_take_memory_in_proportion() -> None:
    """The scores of a single head would take 1 GiB at 16384, and 256 MiB at 8192."""
    result = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    tokens, keys, grown = map(int, result.stdout.split())
    assert (tokens, keys) == (16384, 4)
    assert grown < 2**27
