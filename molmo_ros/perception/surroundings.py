"""What a hand must not hit: everything that was measured around an object, in the whole frame."""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Mask, RgbdFrame
from molmo_ros.perception.cloud import voxel_down
from molmo_ros.perception.depth import DepthOptions
from molmo_ros.perception.ramps import ramps
from molmo_ros.perception.region import Region

HAND_M = 0.22  # how far a hand, and its approach path, reach beyond the object it holds
NEAR_M, FINE_M, COARSE_M = 0.10, 0.005, 0.010  # finer points near the object than farther away
OUTLINE_PX = 5  # depth measured this near to the outline is smeared


def surroundings(
    frame: RgbdFrame, mask: Mask, cloud: Array, plane: Array | None, least: float, depth: DepthOptions
) -> Array:
    """Return points (S,3) m of what stands around an object, without the object and its support.

    Args: mask (H,W) and cloud (N,3) m, the object's; plane (4,), its support, and least m, the height above
    it from which something stands on it.
    """
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    middle, reach = (low + high) / 2, float(np.linalg.norm((high - low)[:2]) / 2)
    region = Region.around(frame, middle, reach + HAND_M, COARSE_M / 3, depth)
    cells = region.above(plane, least)
    ramp = ramps(region, frame.K, None if plane is None else plane[:3])
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((2 * OUTLINE_PX + 1,) * 2, np.uint8)) > 0
    other = ~wide[cells.v, cells.u] & ~ramp[cells.row, cells.column] & region.attached(frame, cells)
    points = cells.points[other]
    near = np.all((points > low - NEAR_M) & (points < high + NEAR_M), axis=1)
    return np.concatenate([voxel_down(points[near], FINE_M)[0], voxel_down(points[~near], COARSE_M)[0]])
