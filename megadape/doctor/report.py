"""What a person sees, and what a program reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from megadape.doctor.base import Finding, State

SIGNS: dict[State, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "problem": ("PROBLEM", "bold red"),
}

WIDTH = 20
"""Of the names."""


def show(console: Console, finding: Finding) -> None:
    """One finding, and what mends it."""
    sign, style = SIGNS[finding.state]
    line = Text.assemble((f"{sign:8}", style), f"{finding.name:{WIDTH}} ", finding.seen)
    console.print(line)
    if finding.remedy is not None:
        console.print(Text(f"{'':8}{'':{WIDTH}} -> {finding.remedy}"))


def worst(findings: Sequence[Finding]) -> State:
    """The worst state of all."""
    states = {finding.state for finding in findings}
    return next(state for state in ("problem", "warning", "ok") if state in states or state == "ok")


def summary(findings: Sequence[Finding]) -> str:
    """One sentence."""
    count = Counter(finding.state for finding in findings)
    if not count["problem"] and not count["warning"]:
        return "everything is fine"
    parts = [f"{count[state]} {state}{'s' * (count[state] > 1)}" for state in ("problem", "warning") if count[state]]
    named = [finding.name for finding in findings if finding.state == "problem"]
    if not named:
        return f"{parts[0]}, and no problem: training works here"
    return f"{', '.join(parts)}; to be mended: {', '.join(dict.fromkeys(named))}"


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """For programs."""
    return {"state": worst(findings), "findings": [asdict(finding) for finding in findings]}
