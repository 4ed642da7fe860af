"""The surroundings of a point, cut out of a frame: a coarse organised cloud."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Depth, Index, Mask, RgbdFrame
from molmo_ros.perception.depth import DepthOptions, valid_depth

RIM = np.ones((5, 5), np.uint8)  # px: gaps in a rim up to this size are closed
FLOOR_PX = 7  # the height of a floor is a mean over this many
FLOOR_M = 0.002  # anything lower is the support


@dataclass(frozen=True)
class Cells:
    """Some cells of a region: points (N,3) m, row and column (N,) in it, and pixel v, u (N,) of the image."""

    points: Array
    row: Index
    column: Index
    v: Index
    u: Index

    def take(self, chosen: Mask) -> Cells:
        """Return some of them."""
        which = np.flatnonzero(chosen)  # searched once, not five times
        return Cells(self.points[which], self.row[which], self.column[which], self.v[which], self.u[which])


@dataclass(frozen=True)
class Region:
    """A strided crop of a frame: z (h,w) m, NaN where it is unusable, at rows v (h,) and columns u (w,).

    (x, y, 1) is the ray of a pixel; x (w,), y (h,). spacing m of the points, and sigma m of their depth, at
    the point around which it was cropped.
    """

    z: Depth
    v: Index
    u: Index
    x: Array
    y: Array
    stride: int
    spacing: float
    sigma: float

    @staticmethod
    def around(frame: RgbdFrame, seed: Array, radius: float, spacing: float, depth: DepthOptions) -> Region:
        """Crop what is within radius m of seed (3,) m, with points about spacing m apart."""
        fx, fy, cx, cy = (float(frame.K[k]) for k in ((0, 0), (1, 1), (0, 2), (1, 2)))
        height, width = frame.depth.shape
        u0, v0 = fx * seed[0] / seed[2] + cx, fy * seed[1] / seed[2] + cy
        half = radius * fx / seed[2]
        stride = int(np.clip(round(spacing * fx / seed[2]), 1, 6))
        rows = _span(v0 - half, v0 + half, height, stride)
        columns = _span(u0 - half, u0 + half, width, stride)
        z = frame.depth[rows, columns]
        with np.errstate(invalid="ignore"):
            usable = valid_depth(z, depth) & (np.abs(z - np.float32(seed[2])) < 1.6 * radius)
        v = np.arange(rows.start, rows.stop, stride)
        u = np.arange(columns.start, columns.stop, stride)
        return Region(
            z=np.where(usable, z, np.float32(np.nan)),
            v=v,
            u=u,
            x=(u - cx) / fx,
            y=(v - cy) / fy,
            stride=stride,
            spacing=stride * float(seed[2]) / fx,
            sigma=float(depth.sigma_m(seed[2], fx)),
        )

    def grid(self, cells: Cells, chosen: Mask | None = None) -> Mask:
        """Return (h,w) where cells (N,), or some of them, lie."""
        there = np.zeros(self.z.shape, dtype=np.bool_)
        there[cells.row, cells.column] = True if chosen is None else chosen
        return there

    def bounds(self) -> tuple[int, int, int, int]:
        """Return the first and last row, and the first and last column, of the image from which it was
        cropped."""
        return int(self.v[0]), int(self.v[-1]), int(self.u[0]), int(self.u[-1])

    def cells(self, row: Index, column: Index) -> Cells:
        """Return the cells at row, column (N,)."""
        z = self.z[row, column].astype(np.float64)
        points = np.stack([self.x[column] * z, self.y[row] * z, z], axis=1)
        return Cells(points, row, column, self.v[row], self.u[column])

    def thinned(self, count: int) -> Array:
        """Return points (N,3) m evenly spread over the image: about `count`, if there are that many."""
        step = max(1, int(np.sqrt(self.z.size / count)))
        row, column = np.nonzero(np.isfinite(self.z[::step, ::step]))
        return self.cells(row * step, column * step).points

    def above(self, plane: Array | None, least: float) -> Cells:
        """Return the cells whose points are more than least m above a plane (4,), or all without one."""
        if plane is None:
            high = np.isfinite(self.z)
        else:
            with np.errstate(invalid="ignore"):
                high = is_above(self.z, self.x, self.y, plane, least)
        return self.cells(*np.divmod(np.flatnonzero(high), max(len(self.u), 1)))

    def attached(self, frame: RgbdFrame, cells: Cells) -> Mask:
        """Mark the cells (N,) of which at least two of four neighbouring pixels have about their depth.

        A flying pixel, between two surfaces, has none.
        """
        z = self.z[cells.row, cells.column]
        step = np.float32(0.005 + 4 * self.sigma)
        count = np.zeros(len(z), dtype=np.int8)
        width = frame.depth.shape[1]
        depth, pixel = frame.depth.ravel(), cells.v * width + cells.u
        with np.errstate(invalid="ignore"):
            for neighbour in (-width, width, -1, 1):
                count += np.abs(depth[pixel + neighbour] - z) < step
        return np.asarray(count >= 2)

    def full_mask(self, frame: RgbdFrame, cells: Cells, plane: Array | None, least: float) -> Mask:
        """Spread cells (N,), at least one, over the pixels (H,W) around them, where depth agrees."""
        s = self.stride
        rows, columns = _extent(cells.row), _extent(cells.column)
        z = np.full(self.z.shape, np.nan, dtype=np.float32)
        z[cells.row, cells.column] = self.z[cells.row, cells.column]
        z = np.repeat(np.repeat(z[rows, columns], s, axis=0), s, axis=1)
        # a cell stands for s x s pixels around it; those at the edge may lie outside the image
        v = np.arange(s * (rows.stop - rows.start)) + self.v[rows.start] - s // 2
        u = np.arange(s * (columns.stop - columns.start)) + self.u[columns.start] - s // 2
        v_in, u_in = _inside(v, frame.depth.shape[0]), _inside(u, frame.depth.shape[1])
        v, u, z = v[v_in], u[u_in], z[v_in, u_in]
        cut = (slice(v[0], v[-1] + 1), slice(u[0], u[-1] + 1))
        depth = frame.depth[cut]
        with np.errstate(invalid="ignore"):
            good = np.abs(depth - z) < max(0.006, 4 * self.sigma)  # NaN is not
            if plane is not None:
                K = frame.K
                rays = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
                good &= is_above(depth, *rays, plane, least)
                good |= _floors(good, depth * _rise(*rays, plane) + np.float32(plane[3]), self.sigma, least)
        mask = np.zeros(frame.depth.shape, dtype=np.bool_)
        mask[cut] = good
        return mask


def is_above(z: Depth, x: Array, y: Array, plane: Array, least: float) -> Mask:
    """Mark the depths z (h,w) m along rays (x, y, 1), x (w,), y (h,), over least m above a plane (4,)."""
    return np.asarray(z * _rise(x, y, plane) > np.float32(least - plane[3]))


def _rise(x: Array, y: Array, plane: Array) -> Depth:
    """How far rays (x, y, 1), x (w,), y (h,), move along the normal of a plane (4,): (h,w) m per m."""
    n = plane.astype(np.float32)
    return np.asarray(n[0] * x.astype(np.float32) + (n[1] * y.astype(np.float32) + n[2])[:, None])


def _floors(mask: Mask, height: Depth, sigma: float, least: float) -> Mask:
    """Mark what a mask (h,w) surrounds if it is a little higher than the support: floors of bowls and mugs.

    Height (h,w) m above the support: 0 where the support itself shows, as in a ring; more in a bowl.
    """
    known = np.isfinite(height)
    size = (FLOOR_PX, FLOOR_PX)
    total = cv2.boxFilter(np.where(known, height, np.float32(0)), -1, size)
    level = total / np.maximum(cv2.boxFilter(known.astype(np.float32), -1, size), np.float32(1e-6))
    floor = (level > max(FLOOR_M, sigma)) & (height < least + 3 * sigma)
    return np.asarray(silhouette(mask) & known & floor)


def silhouette(mask: Mask) -> Mask:
    """A mask (h,w) and everything that it surrounds."""
    edge = len(RIM)
    closed = cv2.morphologyEx(np.pad(mask.astype(np.uint8), edge), cv2.MORPH_CLOSE, RIM)
    cv2.floodFill(closed, None, (0, 0), 2)
    return np.asarray(closed[edge:-edge, edge:-edge] != 2)


def _extent(index: Index) -> slice:
    return slice(int(index.min()), int(index.max()) + 1)


def _span(low: float, high: float, size: int, stride: int) -> slice:
    """Return every stride-th number from low to high that has neighbours in 0..size-1; one at least."""
    first = min(max(int(low), 1), size - 2)
    return slice(first, max(min(int(high), size - 1), first + 1), stride)


def _inside(index: Index, size: int) -> slice:
    """Return which part of consecutive numbers (N,) is within 0..size-1."""
    return slice(max(-int(index[0]), 0), len(index) - max(int(index[-1]) + 1 - size, 0))
