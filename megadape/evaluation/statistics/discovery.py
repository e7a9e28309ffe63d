"""Many comparisons at once: how many of those that look decided are not."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import stats


def adjust_for_discoveries(p_values: Sequence[float | None]) -> list[float | None]:
    """Benjamini and Hochberg's adjusted p of each: below a level, the share of false discoveries is below it too.

    Args:
        p_values: of one family; None where there was nothing to test, which counts for nothing and stays None.
    """
    known = [value for value in p_values if value is not None]
    if not known:
        return list(p_values)
    adjusted = iter(stats.false_discovery_control(known, method="bh").tolist())
    return [None if value is None else next(adjusted) for value in p_values]
