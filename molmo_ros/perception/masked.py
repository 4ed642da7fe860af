"""The points of an object whose mask is given: without what depth shows to be of another layer."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Depth, Index, Mask
from molmo_ros.perception.ramps import STEP_M, regrown
from molmo_ros.perception.region import Cells, Region

STEP_PER_SPACING = 2.2  # neighbours farther apart in depth are of different layers
NEAR_M = 0.03  # a layer nearer than this to the point's own is of the same thing
LARGE = 0.15  # share of the mask from which a layer is believed wherever it is
SMALL = 0.25  # share of an object up to which a layer that begins where it ends is part of it
ALL_RAMPS = 0.4  # a thing with less than this share outside of ramps is kept with its ramps


def own_cells(region: Region, cells: Cells, mask: Mask, ramp: Mask, seed: Array) -> Mask:
    """Mark which cells (N,) of a region are the object's, by its mask (H,W).

    Ramps are left out, and strips of other layers at the mask's border. Args: ramp (N,), which cells lie on
    ramps; seed (3,) m, the lifted point.
    """
    inside = mask[cells.v, cells.u]
    firm = inside & ~ramp
    if np.count_nonzero(firm) < ALL_RAMPS * np.count_nonzero(inside):
        firm = inside
    if not firm.any():
        return firm
    layers = _layers(region, cells.row[firm], cells.column[firm])
    firm[np.flatnonzero(firm)] = _believed(cells.points[firm], layers, seed)
    own = regrown(region.z, region.grid(cells, firm), region.grid(cells, inside & ramp), STEP_M)
    return np.asarray(own[cells.row, cells.column])


def _layers(region: Region, row: Index, column: Index) -> Index:
    """Label cells (N,) of a region that are connected in the image without a step in depth."""
    z = np.full(region.z.shape, np.nan, dtype=np.float32)
    z[row, column] = region.z[row, column]
    step = STEP_M + STEP_PER_SPACING * region.spacing
    whole = np.isfinite(z) & ~_steps(z, step)
    label = cv2.connectedComponents(whole.astype(np.uint8), connectivity=8)[1].astype(np.intp)
    return _joined_edges(z, label, step)[row, column]


def _joined_edges(z: Depth, label: Index, step: float) -> Index:
    """Give a cell (h,w) without a label that of a neighbour whose depth differs by less than step m.

    The last cell before an edge lies behind its neighbour across the edge, but belongs to its own side.
    """
    joined = label.copy()
    row, column = np.nonzero((label == 0) & np.isfinite(z))
    around, depths = np.pad(label, 1), np.pad(z, 1, constant_values=np.nan)
    for dv, du in product((0, 1, 2), repeat=2):
        there = around[row + dv, column + du]
        with np.errstate(invalid="ignore"):
            near = np.abs(depths[row + dv, column + du] - z[row, column]) < step
        free = near & (joined[row, column] == 0)
        joined[row[free], column[free]] = there[free]
    return joined


def with_small_parts(region: Region, own: Mask, rest: Cells) -> Mask:
    """Add to an object's cells own (h,w) the small layers of the rest that begin where it ends: handles."""
    if len(rest.v) == 0:
        return own
    label = np.zeros(region.z.shape, dtype=np.intp)
    label[rest.row, rest.column] = _layers(region, rest.row, rest.column)
    beside = regrown(region.z, own, label > 0, STEP_M, rounds=1) & ~own
    size = np.bincount(label.ravel())
    small = size < SMALL * np.count_nonzero(own)
    joined = np.zeros(len(size), dtype=np.bool_)
    joined[np.unique(label[beside])] = True
    joined[0] = False
    return np.asarray(own | (joined & small)[label])


def _steps(z: Depth, least: float) -> Mask:
    """Mark the cells (h,w) that are behind a neighbour by more than least m; NaN is no neighbour."""
    known = np.isfinite(z)
    nearest = cv2.erode(np.where(known, z, np.float32(np.inf)), np.ones((3, 3), np.uint8))
    with np.errstate(invalid="ignore"):
        return np.asarray(known & (z - nearest > least))


def _believed(points: Array, layers: Index, seed: Array) -> Mask:
    """Mark the points (N,3) of the seed's layer, of large ones, and of those that lie near them in space,
    directly or via others."""
    distance = np.linalg.norm(points - seed, axis=1)
    main = layers[int(np.argmin(np.where(layers > 0, distance, np.inf)))]
    size = np.bincount(layers)
    believed = size >= LARGE * len(layers)
    believed[main], believed[0] = True, False
    left = [int(label) for label in np.argsort(-size) if size[label] and not believed[label]]
    grown = True
    while grown and left:
        body = points[believed[layers]]
        body = body[:: max(1, len(body) // 200)]
        near = [label for label in left if _gap(points[layers == label], body) < NEAR_M]
        believed[near] = True
        left, grown = [label for label in left if label not in near], bool(near)
    return np.asarray(believed[layers])


def _gap(part: Array, body: Array) -> float:
    """Return the median distance (m) from points (N,3) to the nearest ones of a body (M,3)."""
    few = part[:: max(1, len(part) // 20)]
    return float(np.median(np.linalg.norm(few[:, None] - body, axis=2).min(axis=1)))
