"""The exact test of paired differences: were the two methods alike, each difference might as well have the other sign.

Nothing is assumed but that: no normal distribution, no number of seeds large enough. With n seeds there are 2^n equally
likely ways to set the signs, so no p below 2 / 2^n can come out, however large the difference.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

MOST_ENUMERATED = 16
"""With more pairs than this, random sign changes stand for all of them."""

RESAMPLES = 99_999
"""How many then."""


def sign_flip_test(differences: np.ndarray, seed: int = 0) -> np.ndarray:
    """Two-sided p of the mean difference under all changes of sign, over the last axis.

    Args:
        differences: [..., n] finite; leading axes are separate tests.
        seed: of the random changes of sign, where there are too many to enumerate.
    """
    count = differences.shape[-1]
    assert count > 0, differences.shape
    if count == 1:  # either sign is as far from 0
        return np.ones(differences.shape[:-1])
    result = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        axis=-1,
        n_resamples=np.inf if count <= MOST_ENUMERATED else RESAMPLES,
        alternative="two-sided",
        rng=np.random.default_rng(seed),
    )
    return np.asarray(result.pvalue)


def smallest_p(pairs: int) -> float:
    """The smallest p that so many pairs can reach."""
    if pairs > MOST_ENUMERATED:
        return 2 / (RESAMPLES + 1)
    return min(1.0, 2.0 / 2**pairs)


def can_decide(pairs: int, level: float) -> bool:
    """Whether the test of so many pairs can come out below a level at all."""
    return smallest_p(pairs) < level
