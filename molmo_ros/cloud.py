"""Small operations on point clouds (N,3) m that several stages need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from molmo_ros.datatypes import Array, Mask

Index = npt.NDArray[np.intp]


def voxel_index(points: Array, size: float) -> tuple[Index, int]:
    """Number the occupied cubes of edge size m; return each point's number (N,) and their count."""
    cell = np.floor((points - points.min(axis=0)) / size).astype(np.int64)
    nx, ny = int(cell[:, 0].max()) + 1, int(cell[:, 1].max()) + 1
    key = cell[:, 0] + nx * (cell[:, 1] + ny * cell[:, 2])
    occupied, index = np.unique(key, return_inverse=True)
    return index.astype(np.intp), occupied.size


def voxel_means(values: Array, index: Index, count: int) -> Array:
    """Average values (N,C) over the voxels that index (N,) names; return (count,C)."""
    share = 1 / np.bincount(index, minlength=count)
    sums = [np.bincount(index, weights=values[:, c], minlength=count) for c in range(values.shape[1])]
    return np.stack(sums, axis=1) * share[:, None]


def voxel_down(points: Array, size: float, at_most: int | None = None) -> tuple[Array, float]:
    """Return the mean point of every occupied voxel (V,3), and the edge of the voxels in m.

    The edge grows until they are at_most many.
    """
    if len(points) == 0:
        return np.zeros((0, 3)), size
    while True:
        index, count = voxel_index(points, size)
        if at_most is None or count <= at_most:
            return voxel_means(points, index, count), size
        size *= max(1.1, float(np.sqrt(count / at_most)))  # surfaces: the count goes with 1 / size^2


def normals(points: Array, among: Array, radius: float, neighbours: int = 24) -> Array:
    """Estimate unit normals (N,3) that look towards the origin, the camera.

    Principal components of the neighbours of points (N,3) within radius m among a cloud (M,3); a point
    with fewer than 4 of them gets the direction to the camera.
    """
    k = min(neighbours, len(among))
    distance, index = cKDTree(among).query(points, k=k, distance_upper_bound=radius)
    distance, index = distance.reshape(len(points), k), index.reshape(len(points), k)
    near = np.isfinite(distance)
    return principal_normals(points, among[np.where(near, index, 0)], near)


def principal_normals(points: Array, clusters: Array, near: Mask) -> Array:
    """Return the unit normals (N,3), towards the origin, of clusters (N,K,3) of which `near` (N,K) count.

    A point (N,3) with fewer than 4 of them gets the direction to the origin.
    """
    weight = near.astype(np.float64)
    count = weight.sum(axis=1)
    mean = np.einsum("nk,nkc->nc", weight, clusters) / np.maximum(count, 1)[:, None]
    centred = (clusters - mean[:, None]) * weight[..., None]
    vectors = np.linalg.eigh(np.swapaxes(centred, 1, 2) @ centred)[1]
    to_eye = -points / np.linalg.norm(points, axis=1, keepdims=True)
    n = np.where((count >= 4)[:, None], vectors[:, :, 0], to_eye)
    return np.asarray(np.where(np.sum(n * to_eye, axis=1, keepdims=True) < 0, -n, n))


@dataclass(frozen=True)
class Horizon:
    """What the camera saw, as the nearest depth in each direction: a raster of x/z, y/z.

    depth (h,w) m is inf where no object or scene point lies: there the camera looked through to the
    support. It stands in for the depth image, so that a planner needs only clouds.
    """

    depth: Array
    origin: Array
    cell: float

    @staticmethod
    def of(points: Array, spacing: float) -> Horizon:
        """Build it from camera-frame points (N,3) lying about spacing m apart on their surfaces."""
        xy = points[:, :2] / points[:, 2:]
        cell = 1.5 * spacing / float(np.median(points[:, 2]))
        origin = xy.min(axis=0) - 2 * cell
        column, row = np.floor((xy - origin) / cell).astype(np.intp).T
        depth = np.full((int(row.max()) + 3, int(column.max()) + 3), np.inf)
        np.minimum.at(depth, (row, column), points[:, 2])
        return Horizon(_close_gaps(depth), origin, cell)

    def depth_towards(self, points: Array) -> Array:
        """Return the depth seen in the direction of each point (..., 3); inf where nothing lay."""
        z = points[..., 2]
        direction = points[..., :2] / np.where(z > 0.01, z, np.inf)[..., None]
        cell = np.floor((direction - self.origin) / self.cell)
        column, row = cell[..., 0].astype(np.intp), cell[..., 1].astype(np.intp)
        height, width = self.depth.shape
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        seen = self.depth[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        return np.where(inside, seen, np.inf)


def _close_gaps(depth: Array) -> Array:
    """Fill an empty cell between two filled ones, so that a sparse cloud casts no pattern of holes."""
    padded = np.pad(depth, 1, constant_values=np.inf)
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    up, down = padded[:-2, 1:-1], padded[2:, 1:-1]
    between = np.minimum(np.maximum(left, right), np.maximum(up, down))
    return np.where(np.isinf(depth), between, depth)
