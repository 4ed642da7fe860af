"""The organised cloud of a frame, made ready to be seen from another side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import Array, Mask, RgbdFrame
from molmo_ros.draw.raster import Eye
from molmo_ros.draw.style import Floats

STEP = 0.015  # neighbours farther apart than this share of the depth are not on one surface


@dataclass(frozen=True)
class Cloud:
    """points (H,W,3) m in the camera's optical frame; keep (H,W) the pixels that lie on a surface."""

    points: Array
    keep: Mask


def make_cloud(frame: RgbdFrame) -> Cloud:
    """Lift all pixels; drop those without depth and flying pixels, which hang between two surfaces."""
    z = np.where(frame.depth > 0, frame.depth, np.nan).astype(np.float64)
    height, width = z.shape
    x = (np.arange(width) - frame.K[0, 2]) / frame.K[0, 0]
    y = (np.arange(height) - frame.K[1, 2]) / frame.K[1, 1]
    points = np.stack([x[None, :] * z, y[:, None] * z, z], axis=-1)
    lonely = np.zeros(z.shape, dtype=bool)
    for axis in (0, 1):
        step = np.abs(np.diff(z, axis=axis)) > STEP * np.minimum(*_pairs(z, axis))
        before = np.zeros_like(lonely)
        after = np.zeros_like(lonely)
        _pairs(after, axis)[0][...] = step
        _pairs(before, axis)[1][...] = step
        lonely |= before & after
    return Cloud(points, np.isfinite(z) & ~lonely)


def spacing_px(cloud: Cloud, eye: Eye) -> Floats:
    """Return, per pixel (H,W), how far its neighbours on the same surface lie apart in the eye's picture."""
    pixels, _ = eye.project(cloud.points)
    z = cloud.points[..., 2]
    spacing = np.ones(z.shape)
    for axis in (0, 1):
        gap = np.abs(np.diff(pixels, axis=axis)).max(axis=-1)
        same = np.abs(np.diff(z, axis=axis)) < STEP * np.minimum(*_pairs(z, axis))
        gap = np.where(same, gap, 0.0)
        for half in _pairs(spacing, axis):
            np.maximum(half, gap, out=half)
    return np.asarray(spacing + 0.5, dtype=np.float32)


def _pairs(a: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return views of an image without its last and without its first row (axis 0) or column (axis 1)."""
    return (a[:-1], a[1:]) if axis == 0 else (a[:, :-1], a[:, 1:])
