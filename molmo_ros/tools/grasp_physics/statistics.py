"""Statistics for small numbers: intervals of shares, and tests of paired trials."""

from __future__ import annotations

from math import comb, sqrt

import numpy as np

from molmo_ros.datatypes import Mask

Z_95 = 1.959964


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share. Source: Wilson 1927. NaN without trials."""
    if trials == 0:
        return float("nan"), float("nan")
    p, z2 = successes / trials, Z_95**2
    middle = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * sqrt(p * (1 - p) / trials + z2 / (4 * trials**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def mcnemar(ours: Mask, theirs: Mask) -> float:
    """Two-sided exact p that paired successes (N,) bool differ by chance. Source: McNemar 1947, binomial."""
    only_ours, only_theirs = int(np.sum(ours & ~theirs)), int(np.sum(~ours & theirs))
    n, k = only_ours + only_theirs, min(only_ours, only_theirs)
    return min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
