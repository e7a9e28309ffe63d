"""Studies with made-up numbers, for tests of reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, inf, log
from pathlib import Path

import numpy as np

from megadape.evaluation.head_profiles import HeadProfile
from megadape.evaluation.results import Extrapolation, LengthResult, Passkey, PasskeyPlace, PositionLosses
from megadape.studies.results import CellResult, Missing, StudyResults

LENGTHS = (128, 256, 512, 1024)
EDGES = (0, 1, 4, 16, 64, 128, 256, 512, 1024)

GROWTH = {"rope": 0.6, "alibi": 0.02, "kerple": 0.01, "dape-kerple": -0.01}
"""Method -> what each doubling of the length adds to its loss."""

Loss = Callable[[str, int, int], float]
"""(method, seed, length) -> mean loss."""


def usual_loss(method: str, seed: int, length: int) -> float:
    """DAPE lowest, RoPE exploding; the seeds differ by more than the methods do."""
    offset = {"rope": 0.0, "alibi": 0.05, "kerple": 0.01}.get(method, 0.0)
    return 1.5 + 0.03 * (seed % 7) + offset + GROWTH.get(method, 0.0) * log(length / 128) / log(2) + tiny(method, seed)


def tiny(method: str, seed: int) -> float:
    """Noise of a run, the same each time."""
    return float(np.random.default_rng([seed, *method.encode()]).normal(0, 0.002))


def make_extrapolation(method: str, seed: int, loss: Loss, lengths: Sequence[int], sequences: int = 5) -> Extrapolation:
    texts = np.random.default_rng(9).normal(0, 0.2, sequences)
    rows = []
    for length in lengths:
        mean = loss(method, seed, length)
        each = tuple(float(mean + text - texts.mean()) for text in texts)
        perplexity = exp(mean) if mean < 700 else inf
        rows.append(LengthResult(length, mean, perplexity, mean / log(2), 256 * sequences, sequences, 1.5, each))
    return Extrapolation("fixed_target", 128, tuple(rows))


def make_cell(
    method: str,
    seed: int,
    *,
    loss: Loss = usual_loss,
    size: str = "small",
    training_length: int = 128,
    datasets: Sequence[str] = ("library",),
    more: bool = False,
    lengths: Sequence[int] = LENGTHS,
) -> CellResult:
    """A run; with ``more`` also its losses by position and its passkeys."""
    speed = 40_000 - 2_000 * len(method) + seed
    losses = tuple(4.0 - 0.3 * step + tiny(method, seed) for step in range(len(EDGES) - 1))
    places = tuple(
        PasskeyPlace(length, depth, 10, round(1 - depth * length / 2048, 2), round(0.5 - length / 4096, 2), 1.0)
        for length in (128, 512)
        for depth in (0.0, 0.5, 1.0)
    )
    return CellResult(
        method,
        size,
        training_length,
        seed,
        Path("/somewhere/runs") / f"{method}-{seed}",
        812_000 + len(method),
        600,
        61.0 + seed,
        float(speed),
        4.9e6 if method != "rope" else None,
        1.44,
        {name: make_extrapolation(method, seed, loss, lengths) for name in datasets},
        {name: PositionLosses(1024, EDGES, losses, 5) for name in datasets} if more else {},
        Passkey(training_length, 10, places) if more else None,
    )


def make_study(cells: Sequence[CellResult], missing: Sequence[Missing] = (), **changes: object) -> StudyResults:
    methods = tuple(dict.fromkeys([*GROWTH, *(cell.method for cell in cells)]))
    content: dict[str, object] = {
        "name": "a-study",
        "folder": Path("/somewhere"),
        "reference": "dape-kerple",
        "methods": methods,
        "cells": tuple(cells),
        "missing": tuple(missing),
        "facts": {"text": "1.2 MB of something", "versions": "python 3.11"},
        "commands": ("megadape study run a-study.yaml",),
        "settings": "name: a-study\nseeds: [1, 2]\n",
    }
    return StudyResults(**(content | changes))  # type: ignore[arg-type]


def whole_study(seeds: int = 6, more: bool = True) -> StudyResults:
    """Every method with every seed."""
    return make_study([make_cell(method, seed, more=more) for method in GROWTH for seed in range(1, seeds + 1)])


def make_profiles(layers: int = 2, queries: int = 2, heads: int = 2, length: int = 200) -> list[HeadProfile]:
    """A bias that falls in every head; a correction that falls in the first half of the heads, and rises and undoes the
    bias in the second."""
    profiles = []
    for layer in range(layers):
        for query in range(queries):
            generator = np.random.default_rng([layer, query])
            fall = -np.log1p(np.arange(length))
            signs = np.where(np.arange(heads) < heads // 2, 0.5, -2.0)[:, None]
            noise = generator.normal(0, 0.3, (2, heads, length))
            profiles.append(
                HeadProfile(
                    layer,
                    length - 1,
                    (3 * noise[0]).astype(np.float32),
                    np.tile(fall, (heads, 1)).astype(np.float32),
                    (signs * fall + noise[1]).astype(np.float32),
                )
            )
    return profiles
