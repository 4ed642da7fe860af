"""Which parts of a scene stand where an object stands, seen from above its support."""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Index, Mask
from molmo_ros.perception.outline import in_hull

STACKED = 0.9  # share of a part above the object's footprint that makes it part of the object
BRIDGE = np.ones((2, 2), np.uint8)  # across one empty cell
OPEN_M = 0.008  # a floor is seen through an opening: there is nothing right above the point
RIM_M = 0.12  # from a point on a floor to the rim around it
SECTORS, MOST_SECTORS = 12, 10  # directions in which a rim is looked for, and must be found
AROUND = np.ones((3, 3), np.uint8)


def within_reach(flat: Array, seed: Array, gap: float, reach: float) -> Mask:
    """Mark the points (N,2) m that no gap separates from what is within reach m of seed (2,), or around it.

    Points less than `gap` m apart are connected, those up to 1.5 times as far apart may be. So a look at a
    small image excludes most of what stands on a table.
    """
    cell = gap / 2
    row, column, low = _raster(flat, cell)
    occupied = np.zeros((int(row.max()) + 3, int(column.max()) + 3), dtype=np.uint8)
    occupied[row, column] = 1
    parts = cv2.connectedComponents(cv2.dilate(occupied, BRIDGE, anchor=(1, 1)), connectivity=8)[1]
    spot = np.zeros_like(occupied)
    x, y = np.floor((seed - low) / cell).astype(int) + 1
    cv2.circle(spot, (int(x), int(y)), int(reach / cell) + 2, 1, -1)
    touched = np.zeros(int(parts.max()) + 1, dtype=np.bool_)
    touched[parts[spot > 0]] = True
    touched[0] = False
    if touched.any():
        cv2.fillConvexPoly(spot, cv2.convexHull(np.argwhere(touched[parts])[:, ::-1].astype(np.int32)), 1)
        touched[parts[cv2.dilate(spot, AROUND) > 0]] = True
    return np.asarray(touched[parts[row, column]])


def rim_around(flat: Array, height: Array, seed: Array, least: float) -> int | None:
    """Return the index of the nearest point of a rim all around a seed (2,) m, or None.

    flat (N,2) m and height (N,) m of points. A rim has points higher than least m in most
    of SECTORS.
    """
    off = flat - seed
    distance = np.hypot(off[:, 0], off[:, 1])
    high = np.flatnonzero((height > least) & (distance < RIM_M))
    if len(high) == 0 or distance[high].min() < OPEN_M:
        return None
    turn = np.arctan2(off[high, 1], off[high, 0]) / (2 * np.pi) + 0.5
    sector = (turn * SECTORS).astype(np.intp) % SECTORS
    nearest = np.full(SECTORS, np.inf)
    np.minimum.at(nearest, sector, distance[high])
    if np.count_nonzero(np.isfinite(nearest)) < MOST_SECTORS:
        return None
    return int(high[np.argmin(distance[high])])


def with_stacked(flat: Array, height: Array, labels: Index, own: Mask, cell: float) -> Mask:
    """Add the parts within the object's footprint, and those above its top that only it can carry.

    flat (N,2) m and height (N,) m of points; labels (N,) of the parts, -1 of none; own (N,) the object's.
    A cap hides the neck of its bottle, and a rim the inside of its mug, so they appear separate.
    """
    others = labels >= 0
    groups = labels[others]
    size = np.maximum(np.bincount(groups), 1)
    lowest = np.full(size.size, np.inf)
    np.minimum.at(lowest, groups, height[others])
    within = np.bincount(groups, weights=_in_footprint(flat, own, cell)[others]) / size
    over = np.bincount(groups, weights=in_hull(flat, flat[own], cell)[others]) / size
    stacked = (within >= STACKED) | ((over >= STACKED) & (lowest > np.quantile(height[own], 0.99)))
    return np.asarray(own | (others & stacked[np.maximum(labels, 0)]))


def _in_footprint(flat: Array, own: Mask, cell: float) -> Mask:
    """Mark the points (N,2) within a cell of m of the object's own, or enclosed by them."""
    row, column, _ = _raster(flat, cell)
    footprint = np.zeros((int(row.max()) + 3, int(column.max()) + 3), dtype=np.uint8)
    footprint[row[own] + 1, column[own] + 1] = 1
    wider = cv2.dilate(footprint, AROUND)
    outlines, _ = cv2.findContours(wider, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(wider, outlines, -1, 1, cv2.FILLED)[row + 1, column + 1] > 0)


def _raster(flat: Array, cell: float) -> tuple[Index, Index, Array]:
    """Return row and column (N,), from 1, of points (N,2) in cells of m, and the corner (2,) of cell 1, 1."""
    x, y = np.ascontiguousarray(flat.T)
    low = np.array([x.min(), y.min()])
    column, row = ((x - low[0]) / cell).astype(np.intp) + 1, ((y - low[1]) / cell).astype(np.intp) + 1
    return row, column, low
