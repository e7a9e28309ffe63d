"""Where a run stands: its state, how far it is, and its newest numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import yaml

from megadape.monitoring.life import SILENT_SECONDS, Sign, look_for_life
from megadape.monitoring.rows import newest, number, read_tail
from megadape.training.supervision.heartbeat import FOLDER as HEARTBEATS
from megadape.training.supervision.outcome import FILE, Outcome, read_outcome

State = Literal["running", "stalled", "failed", "resumable", "unknown", "imported", "done"]
STATES: tuple[State, ...] = ("running", "stalled", "failed", "resumable", "unknown", "imported", "done")
"""In the order in which they want to be seen. stalled: says that it runs, and gives no sign of life; resumable: saved
and stopped, or killed: the same command goes on; unknown: the folder does not tell; imported: a checkpoint that no
training here has made, and none has gone on from."""

BEATS = 5.0
"""Seconds between heartbeats where the settings do not say."""

NEWEST = 50
"""Rows from which the speed is taken."""

NO_OUTCOME = f"no {FILE}"

SIDE = ("seconds_validate", "seconds_save")
"""What comes to the seconds of a step, now and then."""


@dataclass(frozen=True)
class Standing:
    """One run, as far as its folder can be read."""

    run_dir: Path
    state: State
    step: int
    """Updates made."""
    steps: int | None
    """Updates in all."""
    reason: str
    """Of the state, or what is damaged."""
    exit_code: int | None = None
    """Of the newest start that has ended."""
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    """Newest loss, validation_loss, learning_rate, grad_norm, tokens_per_second, mfu, peak_memory_bytes."""
    seconds_left: float | None = None
    """While it runs."""
    age: float = math.inf
    """Seconds since anything changed; infinite where nothing is there."""

    @property
    def ended(self) -> bool:
        """Whether nobody works on it any more."""
        return self.state in ("done", "failed", "resumable")


VALIDATION = "validation_loss"

NUMBERS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "model_flops_per_second",
    "mfu",
    "peak_memory_bytes",
)


def look_at(run_dir: Path) -> Standing:
    """Where a run stands now; never raises: what cannot be read is said."""
    damage: list[str] = []
    steps, interval = _read_settings(run_dir, damage)
    outcome = _read_outcome(run_dir, damage)
    try:
        rows = read_tail(run_dir / "metrics.jsonl")
    except OSError as error:
        damage.append(f"metrics.jsonl cannot be read: {error.strerror or error}")
        rows = []
    sign = look_for_life(run_dir, interval)
    if sign.life == "unknown" and _age(run_dir / FILE) < SILENT_SECONDS:
        sign = Sign("beats", "")  # it has only just begun
    if sign.life in ("gone", "partly gone"):
        outcome = _read_outcome(run_dir, []) or outcome  # it may have ended, and said so, between the two looks
    state, reason = _judge(outcome, sign)
    if state == "unknown" and not rows and _is_imported(run_dir):
        state, damage = "imported", [words for words in damage if words != NO_OUTCOME]
    step = rows[-1]["step"] if rows else outcome.step if outcome is not None else 0
    return Standing(
        run_dir=run_dir,
        state=state,
        step=step,
        steps=steps,
        reason="; ".join(filter(None, [reason, *damage])),
        exit_code=None if outcome is None else outcome.exit_code,
        numbers={key: number(rows[-1] if rows else None, key) for key in NUMBERS}
        | {VALIDATION: newest(rows, VALIDATION)},
        seconds_left=_seconds_left(rows, step, steps) if state == "running" else None,
        age=_age(run_dir / FILE, run_dir / "metrics.jsonl", run_dir / "heartbeats"),
    )


def _judge(outcome: Outcome | None, sign: Sign) -> tuple[State, str]:
    """The state, and why."""
    if outcome is None:
        return "unknown", "" if sign.life == "unknown" else sign.words
    if outcome.state != "running":
        return outcome.state, "" if outcome.state == "done" else outcome.reason
    if sign.life == "beats":
        return "running", ""
    if sign.life == "gone":
        return "resumable", f"{sign.words}: killed; the same command goes on"
    return "stalled", sign.words


def _is_imported(run_dir: Path) -> bool:
    """Whether a run has a checkpoint, and nothing that training leaves."""
    left = (FILE, "metrics.jsonl", HEARTBEATS)
    return any((run_dir / "checkpoints").glob("step-*")) and not any((run_dir / name).exists() for name in left)


def _read_outcome(run_dir: Path, damage: list[str]) -> Outcome | None:
    outcome = read_outcome(run_dir)
    if outcome is None:
        damage.append(f"{FILE} cannot be read" if (run_dir / FILE).exists() else NO_OUTCOME)
        return None
    known = ("running", "done", "resumable", "failed")
    types = ((outcome.step, int), (outcome.reason, str), (outcome.exit_code, int | None))
    if outcome.state not in known or not all(isinstance(value, kind) for value, kind in types):
        damage.append(f"{FILE} holds no outcome")
        return None
    return outcome


def _read_settings(run_dir: Path, damage: list[str]) -> tuple[int | None, float]:
    """Steps in all, seconds between heartbeats."""
    path = run_dir / "settings.yaml"
    try:
        content = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        damage.append("no settings.yaml")
        return None, BEATS
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        damage.append("settings.yaml cannot be read")
        return None, BEATS
    steps, interval = _at(content, "training", "steps"), _at(content, "watch", "interval_seconds")
    if not isinstance(steps, int):
        damage.append("settings.yaml has no training.steps")
        steps = None
    return steps, float(interval) if isinstance(interval, int | float) else BEATS


def _at(content: object, *keys: str) -> Any:  # noqa: ANN401
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _seconds_left(rows: list[dict[str, Any]], step: int, steps: int | None) -> float | None:
    recent = rows[-NEWEST:]
    seconds = [value for row in recent if (value := number(row, "seconds")) is not None]
    if steps is None or not seconds:
        return None
    aside = fmean(sum(number(row, key) or 0.0 for key in SIDE) for row in recent)
    return max(0, steps - step) * (median(seconds) + aside)


def _age(*paths: Path) -> float:
    """Seconds since the newest of these files changed; infinite where there is none."""
    times = [-math.inf]
    for path in paths:
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(0.0, time.time() - max(times))
