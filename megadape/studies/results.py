"""What a study has found so far: one ``CellResult`` a finished run, as plain values. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megadape.evaluation.results import Extrapolation, Passkey, PositionLosses


@dataclass(frozen=True)
class CellResult:
    """One run of a study's grid, trained and evaluated."""

    method: str
    """Name in the study file, such as dape-kerple."""
    size: str
    """Name of the model size in the study file."""
    training_length: int
    seed: int
    run_dir: Path
    parameters: int
    steps: int
    train_seconds: float
    """Sum over its steps, whatever ran beside it."""
    tokens_per_second: float
    """Median over its steps."""
    flops_per_token: float | None
    """Of training, from the model's shape, the mixer's share in it; None where it is not known."""
    final_loss: float
    """Mean training loss of the last twentieth of the steps, nats a token."""
    evaluations: Mapping[str, Extrapolation] = field(default_factory=dict)
    """By evaluation set; sequences of one set and length are the same text for every method and seed."""
    positions: Mapping[str, PositionLosses] = field(default_factory=dict)
    """By evaluation set."""
    passkey: Passkey | None = None


@dataclass(frozen=True)
class Missing:
    """A run of the grid that has no results."""

    name: str
    """Its folder below the study's."""
    state: str
    """waiting, running, resumable, failed, trained (not yet evaluated)."""
    reason: str
    """Why it failed, else empty."""


@dataclass(frozen=True)
class StudyResults:
    """A study's grid as far as it is done."""

    name: str
    folder: Path
    """Everything that the study makes lies below; the report too, in report/."""
    reference: str
    """The method that the others are compared with."""
    methods: tuple[str, ...]
    """In the order of the study file."""
    cells: tuple[CellResult, ...]
    missing: tuple[Missing, ...]
    facts: Mapping[str, str]
    """Label -> value: text, model, training, evaluation, versions, machine, command; what made the numbers."""
    commands: tuple[str, ...]
    """Exact commands that make the study again, one a line."""
    settings: str
    """The study file as it was read, resolved, as YAML."""
