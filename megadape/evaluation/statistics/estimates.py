"""How large a paired difference is, and how surely known: t interval and standardised effect, over the last axis."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special, stats

ROUNDING = 64 * np.finfo(np.float64).eps
"""Of the values' size: differences that spread less than this are equal."""


class Interval(NamedTuple):
    """From low to high."""

    low: float
    high: float


class PairedT(NamedTuple):
    """A paired t test; NaN where fewer than two pairs, or no spread, leave it undefined."""

    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def paired_t(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> PairedT:
    """Mean of first - second with its t interval and two-sided p, over the last axis; leading axes are separate tests.

    Args:
        first: [..., n] finite values.
        second: [..., n], paired with them.
        confidence: of the interval.
    """
    differences = first - second
    mean = differences.mean(-1)
    if differences.shape[-1] < 2:
        undefined = np.full(mean.shape, np.nan)
        return PairedT(mean, undefined, undefined, undefined)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = stats.ttest_rel(first, second, axis=-1)
        low, high = result.confidence_interval(confidence)
    spread = has_spread(first, second)
    return PairedT(mean, *(np.where(spread, value, np.nan) for value in (low, high, result.pvalue)))


def has_spread(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether the differences vary by more than rounding, over the last axis."""
    size = np.maximum(np.abs(first), np.abs(second)).max(-1)
    return np.ptp(first - second, axis=-1) > ROUNDING * size


def effect_size(differences: np.ndarray) -> np.ndarray:
    """Cohen's d_z of paired differences, over the last axis: their mean over their standard deviation (n - 1)."""
    return differences.mean(-1) / differences.std(-1, ddof=1)


def hedges_factor(n: int) -> float:
    """What takes the upward bias of d_z from n pairs away: J(n - 1), exact; n is at least 3."""
    assert n >= 3, n
    freedom = n - 1
    logarithm = special.gammaln(freedom / 2) - special.gammaln((freedom - 1) / 2) - 0.5 * np.log(freedom / 2)
    return float(np.exp(logarithm))
