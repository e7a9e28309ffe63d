"""Lengths of time as people write them: 3h55m, 45m, 90s, 1d, or a number of seconds."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator

SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PARTS = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: object) -> float:
    """Seconds, more than none.

    Raises:
        ValueError: it is no length of time; says how one is written.
    """
    seconds = _read(str(text).strip().lower().replace(" ", ""))
    if seconds is None or not 0 < seconds < math.inf:
        raise ValueError(f"{text!r} is no length of time: write 3h55m, 45m, 90s, 1d12h, or a number of seconds")
    return seconds


def _read(text: str) -> float | None:
    match = _PARTS.fullmatch(text)
    if match is not None and text:
        return sum(float(part) * SECONDS[unit] for part, unit in zip(match.groups(), SECONDS, strict=True) if part)
    try:
        return float(text)
    except ValueError:
        return None


def format_duration(seconds: float) -> str:
    """As people write it, to the second: 3h55m, 1m30s, 2s."""
    left, parts = max(0, round(seconds)), []
    for unit, size in SECONDS.items():
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


Duration = Annotated[float, BeforeValidator(parse_duration, json_schema_input_type=str | float)]
"""A settings field in seconds, written as ``parse_duration`` reads it."""
