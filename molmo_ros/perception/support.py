"""What an object stands on, right beside it: measured planes wave by millimetres."""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Index, Mask
from molmo_ros.perception.region import Region

RING_M, GAP_PX = 0.06, 4  # the ring in which the support is measured, and the smeared band inside it
LEAST_CELLS, MOST_CELLS = 80, 3000
MOST_TILT, MOST_SHIFT_M = np.cos(np.radians(4.0)), 0.012  # of a refined plane against the one found first


def refined_near(
    region: Region, plane: Array | None, mask: Mask, ramp: Mask, tolerance: float
) -> Array | None:
    """Refit the support plane (4,) to what is measured of it around an object's mask (H,W).

    ramp (h,w): cells of the region not to be trusted. Returns the same plane if too little of it shows there.
    """
    if plane is None:
        return None
    width = int(np.clip(RING_M * region.stride / region.spacing, 12, 120))
    row, column = _ring(region, mask, GAP_PX, width)
    step = max(1, len(row) // MOST_CELLS)
    row, column = row[::step], column[::step]
    points = region.cells(row, column).points[~ramp[row, column]]
    points = points[np.abs(points @ plane[:3] + plane[3]) < 3 * tolerance]
    if len(points) < LEAST_CELLS:
        return plane
    for limit in (3 * tolerance, tolerance):
        near = points[np.abs(points @ plane[:3] + plane[3]) < limit]
        if len(near) < LEAST_CELLS:
            return plane
        middle = near.mean(axis=0)
        n = np.linalg.eigh((near - middle).T @ (near - middle))[1][:, 0]
        n = n if n @ plane[:3] > 0 else -n
        shift = abs(float(plane[:3] @ middle + plane[3]))
        if n @ plane[:3] < MOST_TILT or shift > MOST_SHIFT_M:
            return plane
        plane = np.append(n, -n @ middle)
    return plane


def _ring(region: Region, mask: Mask, inner: int, outer: int) -> tuple[Index, Index]:
    """Return row and column of the region's measured cells between inner and outer px off a mask (H,W)."""
    part = mask[np.ix_(region.v, region.u)].astype(np.uint8)
    if not part.any():
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    away = cv2.distanceTransform(1 - part, cv2.DIST_L2, 3) * region.stride
    row, column = np.nonzero((away > inner) & (away <= outer) & np.isfinite(region.z))
    return row, column
