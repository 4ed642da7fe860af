"""Align the first view of an object with a new one, to a fraction of a pixel; this does not drift.

Gauss-Newton on the colour and depth of its samples: direct image alignment (Baker and Matthews 2004) in 3D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Array, Depth
from molmo_ros.track.view import Surface, TrackOptions, View, project
from molmo_ros.transforms import transform_points

STEPS = 8
FAR_PX = 1.5  # of a step: colours say nothing about anything farther away
COLOR = 10.0  # of 255, typical difference of a spot between two views; more than twice that is an outlier
DEPTH_M = 0.004
TURN_RAD, SHIFT_M = 0.02, 0.02  # of a step, where the image gives no information
SOBEL = 8.0  # its sum of weights
WRONG = 1.5  # disagreement above which a thing may have turned by itself ...
WORTH = 0.5  # ... if a turn halves it: smooth round things seem to turn with every shadow


@dataclass(frozen=True)
class _Part:
    """The part of a view around a surface: colours and their gradients in x and y (h,w,3), depth (h,w), K."""

    layers: tuple[npt.NDArray[Any], ...]
    depth: Depth
    K: Array


def align(surface: Surface, T: Array, view: View, options: TrackOptions, turns: bool = False) -> Array:
    """The motion (4,4) near T with which a surface agrees best with the view.

    A translation; a rotation too if that lowers the residual by much, or if the object is known to rotate.
    """
    part = _around(surface, T, view)
    if min(part.depth.shape) < 6:
        return T
    shifted, left = _fit(surface, T, part, False, options)
    if not surface.has_depth or not (turns or left > WRONG):
        return shifted
    turned, left_then = _fit(surface, shifted, part, True, options)
    return turned if left_then < (1.0 if turns else WORTH) * left else shifted


def _around(surface: Surface, T: Array, view: View) -> _Part:
    pixels = project(transform_points(T, surface.points), view.K)
    height, width = view.gray.shape
    x0, y0 = np.maximum(pixels.min(0).astype(int) - 6, 0)
    x1, y1 = np.minimum(pixels.max(0).astype(int) + 8, [width, height])
    cut = np.s_[y0 : max(y0, y1), x0 : max(x0, x1)]
    K = view.K.copy()
    K[:2, 2] -= x0, y0
    colors = np.ascontiguousarray(view.rgb[cut])
    if not colors.size:
        return _Part((), view.depth[cut], K)
    right, down = (np.asarray(cv2.Sobel(colors, cv2.CV_16S, x, 1 - x)) for x in (1, 0))
    return _Part((colors, right, down), view.depth[cut], K)


def _fit(surface: Surface, T: Array, part: _Part, turn: bool, options: TrackOptions) -> tuple[Array, float]:
    """A better motion, starting from T, and its mean residual."""
    best, least = T, np.inf
    for _ in range(STEPS):
        points = transform_points(T, surface.points)
        left, A, b = _differences(surface, points, part, options)
        if not left < least:
            break
        best, least = T, left
        axes = np.flatnonzero([turn, turn, turn, True, True, surface.has_depth])
        A += np.diag([1 / TURN_RAD**2] * 3 + [1 / SHIFT_M**2] * 2 + [1 / DEPTH_M**2])
        step = np.zeros(6)
        step[axes] = np.linalg.solve(A[np.ix_(axes, axes)], b[axes])
        far = float(np.linalg.norm(step[3:5])) * part.K[0, 0] / points[:, 2].mean()
        T = _moved(T, step * min(1.0, FAR_PX / max(far, 1e-9)), points.mean(0))
    return best, least


def _differences(
    surface: Surface, points: Array, part: _Part, options: TrackOptions
) -> tuple[float, Array, Array]:
    """Mean residual of points (N,3) in the view, and the normal equations A (6,6), b (6,) of a step:
    a rotation (3,) rad about the mean of the points, then a translation (3,) m."""
    height, width = part.depth.shape
    pixels = project(points, part.K)
    inside = (pixels >= 0).all(1) & (pixels <= [width - 1.01, height - 1.01]).all(1)
    u, v = np.rint(np.clip(pixels, 0, [width - 1, height - 1])).astype(int).T
    deeper = part.depth[v, u] - points[:, 2]
    free = inside & ~(deeper < -options.depth_m)  # nothing stands in front of it
    near = free & (np.abs(deeper) < options.depth_m) & surface.has_depth
    if np.count_nonzero(free) < 20:
        return np.inf, np.eye(6), np.zeros(6)
    colors, right, down = (_between(layer, pixels) for layer in part.layers)
    off = (colors - surface.colors) / COLOR
    size = np.linalg.norm(off, axis=1)
    J, Jz = _slopes(points, right / SOBEL / COLOR, down / SOBEL / COLOR, part.K)
    Jw = (J * (free / np.maximum(1.0, size / 2))[:, None, None]).reshape(-1, 6)
    A = Jw.T @ J.reshape(-1, 6) + Jz[near].T @ Jz[near] / DEPTH_M**2
    b = Jz[near].T @ deeper[near] / DEPTH_M**2 - Jw.T @ off.ravel()
    disagree = np.minimum(size, 2.0) * (2 * size - np.minimum(size, 2.0)) / 2  # Huber
    wrong = np.where(
        np.isfinite(deeper) & surface.has_depth, np.minimum((deeper / DEPTH_M) ** 2 / 2, 4.0), 0.0
    )
    return float((disagree + wrong)[free].mean()), A, b


def _slopes(points: Array, right: Array, down: Array, K: Array) -> tuple[Array, Array]:
    """Jacobians of colours (N,3,6) and depth (N,6) at points (N,3); right, down: gradients (N,3) a pixel."""
    right, down, z = right * K[0, 0], down * K[1, 1], points[:, 2:]
    shift = np.stack([right, down, -(right * points[:, :1] + down * points[:, 1:2]) / z], 2) / z[..., None]
    lever = points - points.mean(0)
    nearer = np.zeros((len(points), 6))
    nearer[:, 0], nearer[:, 1], nearer[:, 5] = lever[:, 1], -lever[:, 0], 1.0
    return np.concatenate([np.cross(lever[:, None], shift), shift], axis=2), nearer


def _between(layer: npt.NDArray[Any], pixels: Array) -> Array:
    """A layer (h,w,C) at pixels (N,2), bilinear."""
    height, width = layer.shape[:2]
    pixels = np.clip(pixels, 0, [width - 1.01, height - 1.01])
    (u, v), (a, b) = pixels.astype(int).T, (pixels % 1).T[..., None]
    upper = (1 - a) * layer[v, u] + a * layer[v, u + 1]
    lower = (1 - a) * layer[v + 1, u] + a * layer[v + 1, u + 1]
    return np.asarray((1 - b) * upper + b * lower)


def _moved(T: Array, step: Array, middle: Array) -> Array:
    turn = np.eye(4)
    turn[:3, :3] = cv2.Rodrigues(step[:3])[0]
    turn[:3, 3] = middle - turn[:3, :3] @ middle + step[3:]
    return np.asarray(turn @ T)
