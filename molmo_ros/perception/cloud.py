"""Small operations on point clouds (N,3) m that several stages need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.spatial import cKDTree

from molmo_ros.datatypes import Array, Depth, Index


def voxel_index(points: Array, size: float) -> tuple[Index, int]:
    """Number the occupied cubes of edge size m; return each point's number (N,) and their count."""
    axes = np.ascontiguousarray(points.T)  # numpy reduces along the last axis several times faster
    x, y, z = ((axes - axes.min(axis=1, keepdims=True)) / size).astype(np.int64)
    nx, ny = int(x.max()) + 1, int(y.max()) + 1
    occupied, index = np.unique(x + nx * (y + ny * z), return_inverse=True)
    return index.astype(np.intp, copy=False), occupied.size


def voxel_means(values: Array, index: Index, count: int) -> Array:
    """Average values (N,C) over the voxels that index (N,) names; return (count,C)."""
    share = 1 / np.bincount(index, minlength=count)
    sums = [np.bincount(index, weights=values[:, c], minlength=count) for c in range(values.shape[1])]
    return np.stack(sums, axis=1) * share[:, None]


def voxels(points: Array, size: float, at_most: int | None = None) -> tuple[Index, int, float]:
    """Number the occupied voxels as voxel_index does; their edge of m grows until they are at_most many.

    Returns each point's voxel (N,), how many there are, and their edge.
    """
    while True:
        index, count = voxel_index(points, size)
        if at_most is None or count <= at_most:
            return index, count, size
        # surfaces: the count goes with 1 / size^2; a little more, since another round costs more
        size *= 1.04 * float(np.sqrt(count / at_most))


def voxel_down(points: Array, size: float, at_most: int | None = None) -> tuple[Array, float]:
    """Return the mean point of every occupied voxel (V,3), and the edge of the voxels in m."""
    if len(points) == 0:
        return np.zeros((0, 3)), size
    index, count, size = voxels(points, size, at_most)
    return voxel_means(points, index, count), size


def pixel_spacing(cloud: Array) -> float:
    """Return the distance in m of neighbours in a row of the image, at least 1 mm."""
    return max(0.001, float(np.median(np.linalg.norm(np.diff(cloud[:, :2], axis=0), axis=1))))


def moments(points: Array) -> Array:
    """Return what to add up (N,10) of points (N,3) for their normals: 1, x, y, z, xx, xy, xz, yy, yz, zz."""
    x, y, z = np.ascontiguousarray(points.T)
    x, y, z = x - x.mean(), y - y.mean(), z - z.mean()  # for numerical precision
    return np.stack([np.ones(len(x)), x, y, z, x * x, x * y, x * z, y * y, y * z, z * z], axis=1)


def normals_of_moments(points: Array, sums: Array) -> Array:
    """Return unit normals (N,3) that look towards the origin, the camera, at points (N,3).

    The direction of least extent of a cluster whose moments add up to sums (N,10); with fewer than 4 points
    in it, the direction to the camera.
    """
    count = np.maximum(sums[:, :1], 1.0)
    mean = sums[:, 1:4] / count
    second = sums[:, [4, 5, 6, 5, 7, 8, 6, 8, 9]].reshape(-1, 3, 3) / count[..., None]
    n = np.linalg.eigh(second - mean[:, :, None] * mean[:, None])[1][:, :, 0]
    to_eye = -points / np.sqrt(np.einsum("nc,nc->n", points, points))[:, None]
    few = sums[:, 0] < 4
    n[few] = to_eye[few]
    n[np.einsum("nc,nc->n", n, to_eye) < 0] *= -1
    return np.asarray(n)


def normals(points: Array, among: Array, radius: float) -> Array:
    """Estimate unit normals (N,3) that look towards the origin, the camera.

    Principal components of the neighbours of points (N,3) within radius m among a cloud (M,3); a point
    with fewer than 4 of them gets the direction to the camera.
    """
    tree = cKDTree(among, balanced_tree=False, compact_nodes=False)
    pairs = cKDTree(points).sparse_distance_matrix(tree, radius, output_type="ndarray")
    near = coo_matrix((np.ones(len(pairs)), (pairs["i"], pairs["j"])), shape=(len(points), len(among)))
    return normals_of_moments(points, near @ moments(among))


@dataclass(frozen=True)
class Horizon:
    """What the camera saw, as the nearest depth in each direction: a raster of x/z, y/z.

    depth (h,w) m is inf where no object or scene point lies: there the camera looked through to the
    support. It stands in for the depth image, so that a planner needs only clouds.
    """

    depth: Depth
    origin: Array
    cell: float

    @staticmethod
    def of(points: Array, spacing: float) -> Horizon:
        """Build it from camera-frame points (N,3) lying about spacing m apart on their surfaces."""
        x, y, z = np.ascontiguousarray(points.T)
        x, y = x / z, y / z
        cell = 1.5 * spacing / float(np.median(z))
        # two empty cells all around: look-ups outside end there
        origin = np.array([x.min(), y.min()]) - 2 * cell
        column = ((x - origin[0]) / cell).astype(np.intp)
        row = ((y - origin[1]) / cell).astype(np.intp)
        depth = np.full((int(row.max()) + 3, int(column.max()) + 3), np.inf, dtype=np.float32)
        np.minimum.at(depth, (row, column), z.astype(np.float32))
        return Horizon(_close_gaps(depth), origin, cell)

    def depth_towards(self, points: Array | Depth) -> Depth:
        """Return the depth seen in the direction of each point (..., 3); inf where nothing lay."""
        x, y, z = (points[..., k].astype(np.float32, copy=False) for k in range(3))
        height, width = self.depth.shape
        scale = np.float32(1 / self.cell) / np.where(z > 0.01, z, np.float32(np.inf))
        first = (self.origin / self.cell).astype(np.float32)
        column = np.minimum(np.maximum(x * scale - first[0], 0), width - 1).astype(np.int32)
        row = np.minimum(np.maximum(y * scale - first[1], 0), height - 1).astype(np.int32)
        return np.asarray(self.depth[row, column])


def _close_gaps(depth: Depth) -> Depth:
    """Fill an empty cell between two filled ones, so that a sparse cloud makes no pattern of holes."""
    padded = np.pad(depth, 1, constant_values=np.inf)
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    up, down = padded[:-2, 1:-1], padded[2:, 1:-1]
    between = np.minimum(np.maximum(left, right), np.maximum(up, down))
    return np.where(np.isinf(depth), between, depth)
