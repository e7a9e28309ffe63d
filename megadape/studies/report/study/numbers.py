"""Numbers of a study's report, in few signs."""

from __future__ import annotations

from megadape.evaluation.figures.labels import format_value

ABSENT = "\N{EN DASH}"
"""Where there is no value."""

MINUS = "\N{MINUS SIGN}"


def format_mean(mean: float, deviation: float | None) -> str:
    """4.051 ± 0.012: the deviation with as many decimals as the mean; the mean alone where there is none."""
    text = format_value(mean, 3)
    if deviation is None:
        return text
    if "e" in text:
        return f"{text} ± {format_value(deviation, 1)}"
    decimals = len(text.partition(".")[2])
    return f"{text} ± {deviation:.{decimals}f}"


def signed(value: float | None, decimals: int = 4) -> str:
    """+0.0123 or −0.0123; no sign of what is rounded to 0."""
    if value is None:
        return ABSENT
    text = f"{value:+.{decimals}f}"
    return text.replace("-", MINUS) if float(text) else text[1:]


def decimal(value: float) -> str:
    """A ratio: 0.965; few signs where it is far from 1."""
    return f"{value:.3f}" if 0.01 <= value < 1000 else f"{value:.1e}"


def format_p(value: float | None) -> str:
    """A probability with two digits that count: 0.031, 1, <0.0001."""
    if value is None:
        return ABSENT
    return f"{value:.2g}" if value >= 1e-4 else "<0.0001"


def listed(names: list[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def counted(count: int, word: str) -> str:
    """1 seed, 2 seeds, 3 sizes."""
    return f"{count:,} {word}{'s' * (count != 1)}"
