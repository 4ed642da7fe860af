"""Setting things down on what is already there, by a height map: quick, without physics."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array

CELL_M, HALF_M = 0.005, 0.8
_NEAR_M = 0.006  # from the support: a bearing point
_SUPPORT = 0.3  # least share of the body's extent from its middle, on every side


class Ground:
    """Heights of the highest surface (m) over a square of 2*HALF_M m around the origin; the table is 0."""

    def __init__(self) -> None:
        count = int(2 * HALF_M / CELL_M)
        self._height = np.zeros((count, count), np.float32)

    def heights(self, points: Array) -> Array:
        """Height (N,) m under points (N,2+) m."""
        i, j = self._cells(points)
        return np.asarray(self._height[i, j], dtype=np.float64)

    def rest(self, points: Array, x: float, y: float) -> float:
        """How high (m) a body with surface points (N,3) is lifted when it is let down at (x, y)."""
        moved = points[:, :2] + [x, y]
        return float((self.heights(moved) - points[:, 2]).max())

    def bears(self, points: Array, x: float, y: float, lift: float) -> bool:
        """Tell whether the body, its centre of mass above (x, y), rests on points well around that."""
        moved = points[:, :2] + [x, y]
        near = points[:, 2] + lift - self.heights(moved) < _NEAR_M
        touching = points[near, :2]
        if len(touching) < 5:
            return False
        reach = _SUPPORT * np.abs(points[:, :2]).max(axis=0)
        return bool((touching.min(axis=0) < -reach).all() and (touching.max(axis=0) > reach).all())

    def add(self, points: Array) -> None:
        """Raise the map to surface points (N,3) m; they must be denser than CELL_M, or gaps stay."""
        i, j = self._cells(points)
        for di in (0, 1):
            for dj in (0, 1):
                np.maximum.at(
                    self._height,
                    (np.minimum(i + di, len(self._height) - 1), np.minimum(j + dj, len(self._height) - 1)),
                    points[:, 2].astype(np.float32),
                )

    def _cells(self, points: Array) -> tuple[np.ndarray, np.ndarray]:
        cells = ((points[:, :2] + HALF_M) / CELL_M).astype(np.int64).clip(0, len(self._height) - 1)
        return cells[:, 0], cells[:, 1]
