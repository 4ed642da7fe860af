"""Rounding one matrix so that its *products* change little, given the second moments of its inputs.

All matrices W are (out, in); H (in, in) is the sum of x x' over calibration inputs x; the error of a rounded
matrix Q is tr((W - Q) H (W - Q)'), the squared change of its outputs over these inputs.

Sources: GPTQ (Frantar et al. 2023, arXiv 2210.17323) for the order of rounding and its compensation;
QuantEase (Behdin et al. 2023, arXiv 2309.01885) for the coordinate descent after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Float32

Int8 = npt.NDArray[np.int8]

DAMPING = 0.01  # of the mean of H's diagonal, added to it
CLIPPING = np.linspace(1.0, 0.5, 11, dtype=np.float32)  # of the scale that keeps a block's largest weight
_COLUMNS = 128  # inputs between two updates of all that follow
_OUTPUTS = 512  # rows whose scales are searched or fitted at a time


@dataclass(frozen=True)
class Grid:
    """The steps that a matrix may take: ``bits``, and ``block`` inputs that share a scale."""

    bits: int
    block: int

    @property
    def least(self) -> int:
        """-8 for 4 bits; 8 bits are symmetric."""
        return -8 if self.bits == 4 else -127

    @property
    def most(self) -> int:
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class Rounded:
    """Integers (out,in) and their scales (out,in/block), which are positive bf16 numbers."""

    values: Int8
    scales: Float32
    grid: Grid

    @property
    def weight(self) -> Float32:
        """What the integers stand for, (out,in)."""
        return np.asarray(self.values * np.repeat(self.scales, self.grid.block, axis=1), np.float32)


def damped(h: Float32) -> Float32:
    """H with its diagonal raised, so that it has an inverse where inputs do not span all directions."""
    result = h.copy()
    diagonal = np.einsum("ii->i", result)
    mean = float(diagonal.mean())
    diagonal += DAMPING * mean if mean > 0 else 1.0
    return result


def output_error(weight: Float32, other: Float32, h: Float32) -> float:
    """Squared change of the outputs as a share of their square: 0 is none."""
    d = weight - other
    change = float(np.einsum("oi,oi->", d @ h, d, dtype=np.float64))
    size = float(np.einsum("oi,oi->", weight @ h, weight, dtype=np.float64))
    return change / size if size > 0 else 0.0


def to_nearest(weight: Float32, scales: Float32, grid: Grid) -> Rounded:
    """Each weight on its own, with the given scales (out,in/block)."""
    steps = weight / np.repeat(scales, grid.block, axis=1)
    return Rounded(np.clip(np.rint(steps), grid.least, grid.most).astype(np.int8), scales, grid)


def _by_input(scales: Float32, grid: Grid) -> Float32:
    """Scales (out,in/block) -> the step of each weight, (in,out)."""
    return np.repeat(scales.T, grid.block, axis=0)


def bf16(scales: Float32) -> Float32:
    """The nearest bf16 numbers, so that every runtime multiplies by the same values."""
    return np.maximum(scales.astype(ml_dtypes.bfloat16).astype(np.float32), np.float32(1e-30))


def largest_scales(weight: Float32, grid: Grid) -> Float32:
    """Scales (out,in/block) that clip nothing."""
    blocks = weight.reshape(len(weight), -1, grid.block)
    scales = np.maximum(blocks.max(axis=2) / grid.most, blocks.min(axis=2) / grid.least)
    scales[scales <= 0] = 1
    return bf16(scales)


def search_scales(weight: Float32, importance: Float32, grid: Grid) -> Float32:
    """Scales (out,in/block) with the least error sum(importance * (w - q)^2), importance (in,).

    Clipping a block's largest weights makes the steps of all others finer.
    """
    largest = largest_scales(weight, grid)
    result = largest.copy()
    for start in range(0, len(weight), _OUTPUTS):
        rows = slice(start, start + _OUTPUTS)
        blocks = weight[rows].reshape(len(weight[rows]), -1, grid.block)
        heavy = importance.reshape(1, -1, grid.block)
        least = np.full(blocks.shape[:2], np.inf, np.float32)
        for share in CLIPPING:
            scales = bf16(largest[rows] * share)
            steps = np.clip(np.rint(blocks / scales[..., None]), grid.least, grid.most)
            error = ((blocks - steps * scales[..., None]) ** 2 * heavy).sum(axis=2)
            better = error < least
            least[better] = error[better]
            result[rows][better] = scales[better]
    return result


@dataclass(frozen=True)
class Order:
    """The order in which inputs are rounded, the heaviest first (in,), and how the error of each is
    compensated by those that follow: the upper Cholesky factor (in,in) of the inverse of H in this order."""

    inputs: npt.NDArray[np.intp]
    factor: Float32

    @classmethod
    def of(cls, h: Float32) -> Order:
        inputs = np.argsort(-np.diag(h), kind="stable")
        return cls(inputs, inverse_factor(h[np.ix_(inputs, inputs)]))


def gptq(weight: Float32, order: Order, scales: Float32, grid: Grid) -> Rounded:
    """Round input by input.

    The scales are fixed beforehand, so the order of rounding does not affect the layout.
    """
    factor, inputs = order.factor, order.inputs
    step = _by_input(scales, grid)[inputs]
    work = np.ascontiguousarray(weight.T[inputs])  # (in,out): the weights of an input lie side by side
    values = np.empty(work.shape, np.int8)
    for start in range(0, len(work), _COLUMNS):
        stop = min(start + _COLUMNS, len(work))
        left_over = np.empty((stop - start, work.shape[1]), np.float32)
        for i in range(start, stop):
            now = work[i] - factor[start:i, i] @ left_over[: i - start]
            steps = np.clip(np.rint(now / step[i]), grid.least, grid.most)
            values[inputs[i]] = steps
            left_over[i - start] = (now - steps * step[i]) / factor[i, i]
        work[stop:] -= factor[start:stop, stop:].T @ left_over
    return Rounded(np.ascontiguousarray(values.T), scales, grid)


def inverse_factor(h: Float32) -> Float32:
    """Upper Cholesky factor R of the inverse of H = R' R: with H = U U', it is the inverse of U."""
    from scipy.linalg import cholesky, lapack

    lower = cholesky(np.asfortranarray(h[::-1, ::-1], np.float64), lower=True, overwrite_a=True)
    inverse, _ = lapack.dtrtri(lower[::-1, ::-1], lower=0)
    return np.asarray(inverse, dtype=np.float32)


def descend(weight: Float32, h: Float32, rounded: Rounded, sweeps: int) -> Rounded:
    """Coordinate descent: each weight in turn moves to its best step while all others stay."""
    grid, values = rounded.grid, np.ascontiguousarray(rounded.values.T)  # (in,out)
    step = _by_input(rounded.scales, grid)
    pull = h @ (weight - rounded.weight).T  # half the gradient
    diagonal = np.diag(h)
    for _ in range(sweeps):
        changed = False
        for start in range(0, len(pull), _COLUMNS):
            stop = min(start + _COLUMNS, len(pull))
            moves = np.empty((stop - start, pull.shape[1]), np.float32)
            for i in range(start, stop):
                now = pull[i] - h[i, start:i] @ moves[: i - start]
                steps = np.clip(np.rint(values[i] + now / (diagonal[i] * step[i])), grid.least, grid.most)
                moves[i - start] = (steps - values[i]) * step[i]
                values[i] = steps
            if moves.any():
                pull -= h[:, start:stop] @ moves
                changed = True
        if not changed:
            break
    return Rounded(np.ascontiguousarray(values.T), rounded.scales, grid)


def fit_scales(weight: Float32, h: Float32, rounded: Rounded) -> Rounded:
    """The scales with the least error for the integers as they are: least squares for each output."""
    grid, scales = rounded.grid, rounded.scales.copy()
    count = scales.shape[1]
    target = weight @ h
    for start in range(0, len(weight), _OUTPUTS):
        rows = slice(start, start + _OUTPUTS)
        blocks = rounded.values[rows].astype(np.float32).reshape(-1, count, grid.block)
        right = np.einsum("obi,obi->ob", blocks, target[rows].reshape(blocks.shape))
        left = np.empty((len(blocks), count, count), np.float32)
        for b in range(count):
            product = blocks[:, b] @ h[b * grid.block : (b + 1) * grid.block]  # (o,in)
            left[:, b] = np.einsum("obi,obi->ob", blocks, product.reshape(blocks.shape))
        empty = left.diagonal(axis1=1, axis2=2) <= 0
        left[:, range(count), range(count)] += np.where(empty, 1.0, 0.0)
        fitted = np.linalg.solve(left.astype(np.float64), right.astype(np.float64)[..., None])[..., 0]
        near = (fitted > 0.5 * scales[rows]) & (fitted < 2 * scales[rows]) & ~empty
        scales[rows] = np.where(near, bf16(fitted.astype(np.float32)), scales[rows])
    return Rounded(rounded.values, scales, grid)
