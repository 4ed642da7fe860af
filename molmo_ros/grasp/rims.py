"""Rims and handles: thin upper edges that two fingers can straddle."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree

from molmo_ros.datatypes import Array, Mask
from molmo_ros.grasp.candidates import Candidates, thinned
from molmo_ros.perception.complete import Views

RIM_TILTS_DEG = (0.0, 25.0, -25.0)
RIMS = 20
TOPS = 120  # points that are tested for being thin tops


def rim_candidates(views: Views, click: Array) -> Candidates:
    """Straddle thin upper edges: the rim of a bowl or a mug, a handle."""
    coarse, dense = views.coarse, views.dense
    edge, across = _thin_tops(coarse.points[coarse.seen], dense.points[dense.seen], 0.012)
    if len(edge) > RIMS:
        near_first = np.argsort(np.linalg.norm(edge - click, axis=1))
        edge, across = edge[near_first], across[near_first]
        spread = np.linspace(RIMS // 2, len(edge) - 1, RIMS // 2).astype(np.intp)
        keep = np.concatenate([np.arange(RIMS // 2), spread])
        edge, across = edge[keep], across[keep]
    rotation = _leaning(across, RIM_TILTS_DEG)
    count = len(rotation)
    return Candidates(
        rotation,
        np.repeat(edge, len(RIM_TILTS_DEG), axis=0),
        half=np.full(count, 0.002),
        depth=np.full(count, 0.012),
        cosine=np.ones(count),
    )


def _thin_tops(points: Array, among: Array, radius: float) -> tuple[Array, Array]:
    """Find local tops (E,3) that are thin in a horizontal direction; return them and that direction (E,3).

    Looks at the neighbours of points (N,3) within radius m among a denser cloud (M,3).
    """
    points = thinned(points[_may_be_top(points, radius)], TOPS)
    tree = cKDTree(among, balanced_tree=False, compact_nodes=False)
    distance, index = tree.query(points, k=min(48, len(among)), distance_upper_bound=radius)
    near = np.isfinite(distance)
    index = np.where(near, index, 0)
    height = np.where(near, among[:, 2][index], -np.inf)
    high = height > points[:, 2, None] - 0.008
    top = (points[:, 2] > height.max(axis=1) - 0.004) & (np.count_nonzero(high, axis=1) >= 8)
    around, high = among[index[top], :2], high[top, :, None]
    count = np.count_nonzero(high, axis=1)
    mean = np.where(high, around, 0.0).sum(axis=1) / count
    centred = np.where(high, around - mean[:, None], 0.0)
    narrow, wide, angle = _spread(np.swapaxes(centred, 1, 2) @ centred / count[:, None])
    thin = (narrow < 0.0035) & (wide > 1.8 * narrow)
    across = np.stack([np.cos(angle), np.sin(angle), np.zeros(len(angle))], axis=1)
    return np.concatenate([mean, points[top, 2:]], axis=1)[thin], across[thin]


def _spread(covariance: Array) -> tuple[Array, Array, Array]:
    """Return the deviations (N,) along the shorter and the longer axis of each (N,2,2), and where the shorter
    one points (N,) rad.
    """
    a, b, c = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    half = np.hypot((a - c) / 2, b)
    angle = np.arctan2(2 * b, a - c) / 2 + np.pi / 2
    middle = (a + c) / 2
    return np.sqrt(np.maximum(middle - half, 0)), np.sqrt(middle + half), angle


def _may_be_top(points: Array, radius: float) -> Mask:
    """Leave out points (N,3) that have much higher ones beside them, in the cells of radius m around."""
    column, row = np.floor((points[:, :2] - points[:, :2].min(axis=0)) * 2 / radius).astype(np.intp).T + 1
    highest = np.full((int(row.max()) + 2, int(column.max()) + 2), -1.0, dtype=np.float32)
    np.maximum.at(highest, (row, column), points[:, 2].astype(np.float32))
    return np.asarray(points[:, 2] > cv2.dilate(highest, np.ones((3, 3), np.uint8))[row, column] - 0.0041)


def _leaning(across: Array, tilts_deg: tuple[float, ...]) -> Array:
    """Return rotations (C*tilts,3,3) from above that lean along `across` (C,3), as a slanting wall does."""
    down = np.array([0.0, 0.0, -1.0])
    angle = np.radians(tilts_deg)
    c, s = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
    y = c * across[:, None] - s * down
    z = c * down + s * across[:, None]
    return np.stack([np.cross(y, z), y, z], axis=-1).reshape(-1, 3, 3)
