"""Rounding a matrix' outputs in groups, so that the errors of one are compensated by the next.

Decisions depend on few directions of a matrix' results. M (out,out), the second moments of the gradients
at its results, tells which: the error of a rounded matrix Q is tr(M (W - Q) H (W - Q)'). The error of outputs
already rounded in these directions is compensated by those that follow, as GPTQ does with inputs.
Source: YAQA (Tseng et al. 2025, arXiv 2505.22988), which has this error and such feedback from both sides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from molmo_ros.datatypes import Float32
from molmo_ros.quantise.rounding import Grid, Rounded, inverse_factor

GROUPS = 16
RIDGE = 0.1  # share of the identity mixed into M: no output has weight zero
MOST_OUTPUTS = 8192  # of a matrix for which M is used: its size is their square


def ridged(metric: Float32) -> Float32:
    """M with a mean of 1 on its diagonal, shrunk towards the identity."""
    mean = float(np.diag(metric).mean())
    if mean <= 0:
        return np.eye(len(metric), dtype=np.float32)
    result = metric * np.float32((1 - RIDGE) / mean)
    np.einsum("ii->i", result)[:] += RIDGE
    return result


def round_groups(
    target: Float32, metric: Float32, grid: Grid, round_rows: Callable[[Float32], Rounded]
) -> Rounded:
    """Round ``target`` (out,in) group by group of outputs with ``round_rows``; ``metric`` (out,out) has an
    inverse."""
    target, outputs = target.copy(), len(target)
    values = np.empty(target.shape, np.int8)
    scales = np.empty((outputs, target.shape[1] // grid.block), np.float32)
    group = np.arange(outputs) % GROUPS
    order = np.argsort(group, kind="stable")
    factor = inverse_factor(metric[np.ix_(order, order)])
    ends = np.cumsum(np.bincount(group))
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        rows, after = order[start:stop], order[stop:]
        rounded = round_rows(np.ascontiguousarray(target[rows]))
        values[rows], scales[rows] = rounded.values, rounded.scales
        left_over = np.linalg.solve(factor[start:stop, start:stop].T, target[rows] - rounded.weight)
        target[after] -= factor[start:stop, stop:].T @ left_over
    return Rounded(values, scales, grid)


def decision_error(weight: Float32, other: Float32, h: Float32, metric: Float32) -> float:
    """tr(M D H D') of the difference D, as a share of that of ``weight``."""
    d = weight - other
    change, size = (float(np.einsum("oi,oi->", metric @ (w @ h), w, dtype=np.float64)) for w in (d, weight))
    return change / size if size > 0 else 0.0
