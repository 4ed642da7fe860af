"""What a real RGB-D sensor adds: noise in disparity, lost and flying pixels at edges, holes, photon noise.

The depth model follows active stereo cameras: disparity noise makes the depth error grow with z^2, the second
camera's view is hidden left of near things, and edges are either lost or smeared between both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import Depth, Image


@dataclass(frozen=True)
class NoiseModel:
    """scale multiplies everything: 0 = a perfect sensor, 1 = nominal, 2 = a bad day."""

    scale: float = 1.0
    baseline: float = 0.05  # m between the two cameras
    disparity_sigma: float = 0.08  # px
    disparity_step: float = 1 / 32  # px
    edge_dropout: float = 0.35  # share of edge pixels lost
    flying: float = 0.15  # share of edge pixels between both surfaces
    holes: float = 2.0  # mean number of holes
    quantum: float = 0.001  # m, of 16UC1


def noisy_depth(depth: Depth, fx: float, model: NoiseModel, rng: np.random.Generator) -> Depth:
    """A sensor's version of clean depth (H,W) m; NaN where it sees nothing."""
    if model.scale == 0:
        return depth.copy()
    z = depth.astype(np.float64)
    z = _flying_pixels(z, model, rng)
    disparity = fx * model.baseline / z
    disparity += rng.normal(0, model.disparity_sigma * model.scale, z.shape)
    disparity = np.round(disparity / model.disparity_step) * model.disparity_step
    z = fx * model.baseline / np.maximum(disparity, 1e-3)
    z[_shadow(depth, fx, model.baseline)] = np.nan
    lost = _edges(depth) & (rng.random(z.shape) < model.edge_dropout * model.scale)
    lost |= _holes(z.shape, model, rng)
    z[lost] = np.nan
    return (np.round(z / model.quantum) * model.quantum).astype(np.float32)


def noisy_color(rgb: Image, rng: np.random.Generator, sigma: float = 3.0) -> Image:
    """Photon and read noise on (H,W,3) uint8."""
    noise = rng.standard_normal(rgb.shape, dtype=np.float32) * sigma
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)


def _edges(depth: Depth, step: float = 0.012) -> np.ndarray:
    """Pixels beside a jump in depth."""
    edge = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        jump = ~(np.abs(np.diff(depth, axis=axis)) < step)  # also beside NaN
        low = [slice(None)] * 2
        high = [slice(None)] * 2
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        edge[tuple(low)] |= jump
        edge[tuple(high)] |= jump
    return edge


def _flying_pixels(z: np.ndarray, model: NoiseModel, rng: np.random.Generator) -> np.ndarray:
    fly = _edges(z.astype(np.float32)) & (rng.random(z.shape) < model.flying * model.scale)
    v, u = np.nonzero(fly)
    other = z[
        np.clip(v + rng.integers(-1, 2, len(v)), 0, z.shape[0] - 1),
        np.clip(u + rng.integers(-1, 2, len(u)), 0, z.shape[1] - 1),
    ]
    share = rng.random(len(v))
    out = z.copy()
    out[v, u] = (1 - share) * z[v, u] + share * other
    return out


def _shadow(depth: Depth, fx: float, baseline: float) -> np.ndarray:
    """Pixels that the right camera cannot see: something nearer projects to the right of them there."""
    disparity = np.nan_to_num(fx * baseline / depth, nan=0.0)
    right = np.arange(depth.shape[1]) - disparity
    nearest_right = np.minimum.accumulate(right[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(right > nearest_right + 1.5)


def _holes(shape: tuple[int, int], model: NoiseModel, rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros(shape, bool)
    v, u = np.mgrid[: shape[0], : shape[1]]
    for _ in range(rng.poisson(model.holes * model.scale)):
        cv, cu, r = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(0.003, 0.012) * shape[1]
        mask |= (v - cv) ** 2 + (u - cu) ** 2 < r**2
    return mask
