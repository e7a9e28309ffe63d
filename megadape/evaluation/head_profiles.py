"""What each attention head makes of distance, and which heads are local: plain values. Needs no torch.

**The measure.** The heads' profiles at one query are averaged over bins of distance, half an octave wide, as the
figures draw them: single keys scatter with their content, and every octave counts alike. A head's trend is Spearman's
rank correlation between distance and what is added to its scores, over these bins: -1 where it falls all the way, +1
where it rises all the way. It is averaged over all queries and texts of a layer. A head is *local* where the trend is
below -``TREND``, *anti-local* where it is above +``TREND``, and neither in between. Two things are measured so: the
whole of what is added, static bias + DAPE correction, and the correction alone, for a correction that rises with
distance undoes a bias that falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

TREND = 0.5
"""How strong a rank correlation makes a head local or anti-local."""

BINS_PER_OCTAVE = 2


@dataclass(frozen=True)
class HeadProfile:
    """What adds up to the attention logits of one query, per head, by distance to the key."""

    layer: int
    query: int
    score: np.ndarray
    """[heads, query + 1], q k / sqrt(d); index 0 is the query's own position."""
    bias: np.ndarray
    """[heads, query + 1], the encoding's bias; zeros where it has none."""
    correction: np.ndarray
    """[heads, query + 1], logits - score - bias: what the mixer adds; zeros without a mixer."""


@dataclass(frozen=True)
class HeadTrend:
    """How what is added to one head's scores goes with distance, averaged over queries and texts."""

    layer: int
    head: int
    position: float
    """Of static bias + correction, in [-1, 1]; 0 where nothing is added."""
    correction: float
    """Of the correction alone; 0 without a mixer."""
    queries: int
    """How many it was averaged over."""


@dataclass(frozen=True)
class KindCounts:
    """How many heads of a layer are of which kind."""

    layer: int
    heads: int
    local: int
    anti_local: int
    correction_local: int
    correction_anti_local: int


def head_trends(profiles: Sequence[HeadProfile]) -> list[HeadTrend]:
    """The trend of every head of every layer that was looked at."""
    trends = []
    for layer in sorted({profile.layer for profile in profiles}):
        members = [profile for profile in profiles if profile.layer == layer]
        # [queries, 2, heads]
        found = np.array([[_trends(_position(one)), _trends(_correction(one))] for one in members]).mean(0)
        trends += [
            HeadTrend(layer, head, float(position), float(correction), len(members))
            for head, (position, correction) in enumerate(found.T)
        ]
    return trends


def count_kinds(trends: Sequence[HeadTrend], threshold: float = TREND) -> list[KindCounts]:
    """Count local and anti-local heads, layer by layer."""
    counts = []
    for layer in sorted({trend.layer for trend in trends}):
        members = [trend for trend in trends if trend.layer == layer]
        kinds = [
            sum(sign * getattr(trend, name) > threshold for trend in members)
            for name in ("position", "correction")
            for sign in (-1, 1)
        ]
        counts.append(KindCounts(layer, len(members), *kinds))
    return counts


def running_mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over bins of distance, half an octave wide: [..., n] -> (mean distance [bins], mean values [..., bins])."""
    distances = np.arange(values.shape[-1])
    bins = np.where(distances == 0, -1, np.floor(BINS_PER_OCTAVE * np.log2(np.maximum(distances, 1)))).astype(int)
    _, starts, counts = np.unique(bins, return_index=True, return_counts=True)
    return np.add.reduceat(distances, starts) / counts, np.add.reduceat(values, starts, axis=-1) / counts


def rounding(score: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """What another term must exceed to be more than float32's rounding of the logits."""
    return np.asarray(4 * np.finfo(np.float32).eps * (np.abs(score) + np.abs(bias)))


def _position(profile: HeadProfile) -> np.ndarray:
    return profile.bias.astype(np.float64) + _correction(profile)


def _correction(profile: HeadProfile) -> np.ndarray:
    """The correction in float64; zeros where it is rounding alone, as of a model without a mixer."""
    values = profile.correction.astype(np.float64)
    present = (np.abs(values) > rounding(profile.score, profile.bias)).any()
    return values if present else np.zeros_like(values)


def _trends(values: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each row of [heads, distances] with distance, over bins; 0 where a row is flat."""
    _, means = running_mean(values)
    ranks = stats.rankdata(means, axis=-1)
    places = np.arange(means.shape[-1]) - (means.shape[-1] - 1) / 2
    centred = ranks - ranks.mean(-1, keepdims=True)
    size = np.linalg.norm(centred, axis=-1) * np.linalg.norm(places)
    return np.divide(centred @ places, size, out=np.zeros(len(means)), where=size > 0)
