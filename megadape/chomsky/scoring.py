"""Accuracy by length: per-token, most likely symbol, over the scored positions.

The strings of a length are the same for every method and seed, so that results are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from megadape.chomsky.settings import ScoringSettings
from megadape.chomsky.task import Sample, Task
from megadape.chomsky.training import count_right, move
from megadape.model.encoder import Encoder
from megadape.parameters import seed_of

SEED = 0
"""Seeds the strings that are scored: no experiment's own."""


@dataclass(frozen=True)
class LengthScore:
    """What was found at one length."""

    length: int
    accuracy: float
    majority: float
    """Accuracy of always saying the commonest symbol of these answers."""


@torch.no_grad()
def score(
    model: Encoder,
    task: Task,
    settings: ScoringSettings,
    lengths: Iterable[int],
    device: torch.device,
    told: Callable[[int], None] = lambda length: None,
) -> list[LengthScore]:
    """Score lengths, one after the other."""
    model.train(settings.dropout)
    scores = []
    for length in lengths:
        scores.append(score_length(model, task, settings, length, device))
        told(length)
    return scores


def score_length(
    model: Encoder, task: Task, settings: ScoringSettings, length: int, device: torch.device
) -> LengthScore:
    """Score one length."""
    name = f"{task.name} scored at {length}"
    sample = task.sample(settings.sequences, length, torch.Generator().manual_seed(seed_of(SEED, name)))
    torch.manual_seed(seed_of(SEED, name))  # of dropout, where it stays on
    right = scored = 0
    for start in range(0, settings.sequences, settings.batch_size):
        rows = slice(start, start + settings.batch_size)
        mask = None if sample.mask is None else sample.mask[rows]
        part = move(Sample(sample.inputs[rows], sample.targets[rows], mask), device)
        found, of = count_right(model(part.inputs, part.targets.shape[1]), part)
        right, scored = right + found, scored + of
    return LengthScore(length, right / scored, majority(sample, len(task.answers)))


def majority(sample: Sample, answers: int) -> float:
    """Share of the commonest symbol among the scored positions."""
    targets = sample.targets if sample.mask is None else sample.targets[sample.mask]
    counts = torch.bincount(targets.flatten(), minlength=answers)
    return float(counts.max() / counts.sum())
