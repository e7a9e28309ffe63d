"""Numbers and labels in figures and tables."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean


def format_value(value: float, decimals: int = 2) -> str:
    """A perplexity, or bits per byte, in few characters: 4.05, 27.4, 265, 1.2e4, inf.

    Args:
        value: not NaN.
        decimals: of values below 10; larger ones have one digit fewer for each power of ten.
    """
    if not isfinite(value):
        return str(value)
    if abs(value) >= 9999.5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    for places in range(decimals, -1, -1):
        text = f"{value:.{places}f}"
        if sum(map(str.isdigit, text)) <= decimals + 1:
            break
    return text


def spread_labels(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places apart, as little as possible in the sum of squares, to at least ``gap`` and inside [low, high].

    Where they do not all fit, they run over ``high``. Order is kept.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    # with the gaps taken out, "at least a gap apart" is "not decreasing": isotonic regression by pooling neighbours
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([wanted[index] - gap * rank])
        while len(pools) > 1 and fmean(pools[-2]) >= fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levels = [fmean(pool) for pool in pools for _ in pool]
    highest = max(low, high - gap * (len(order) - 1))
    places = {index: min(max(levels[rank], low), highest) + gap * rank for rank, index in enumerate(order)}
    return [places[index] for index in range(len(wanted))]
