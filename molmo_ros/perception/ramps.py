"""Where depth runs as a ramp from one surface to another behind it, though nothing is there.

Stereo matching compares windows, and at the edge of a thing a window shows two surfaces: the disparities in
between belong to no surface. Such a ramp, 2 to 12 px wide, lies nearly along the ray.
"""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Depth, Mask
from molmo_ros.perception.region import Region

REACH_PX = 2  # slopes are taken over twice as much: less is dominated by noise
GRAZING = 0.45  # |cos| of ray and normal: anything seen more grazing is a ramp, or not measured well
GROW, STEP_M = 3, 0.006  # cells that a steep side may add to an object, and the largest step between them
JUMP_M, JUMP_PX = 0.015, 4  # the least change of depth across a ramp, and within how many pixels
FARTHEST_M = 100.0
LEVEL, LEVEL_GRAZING = 0.94, 0.2  # but a low camera sees level faces like that


def ramps(region: Region, K: Array, up: Array | None = None) -> Mask:
    """Mark which cells (h,w) of a region are of ramps: seen at a grazing angle, and depth jumps across them.

    Args: K (3,3) px; up (3,), unit, normal of the support: faces that point there may be seen at a more
    grazing angle than others. With g the gradient of z in m/px, the normal is along
    (g_u fx, g_v fy, -(z + (u-cx) g_u + (v-cy) g_v)).
    """
    x, y = region.x.astype(np.float32), region.y.astype(np.float32)[:, None]
    z, cells = region.z, max(1, round(REACH_PX / region.stride))
    gu = _slope(z, cells, axis=1) * np.float32(K[0, 0] / (cells * region.stride))
    gv = _slope(z, cells, axis=0) * np.float32(K[1, 1] / (cells * region.stride))
    along = z + x * gu + y * gv
    square = gu * gu + gv * gv + along * along
    with np.errstate(invalid="ignore"):
        seen = z * z / (1 + x * x + y * y)  # squared, like the cosines it is compared with
        grazing = seen < np.float32(GRAZING**2) * square
        if up is not None:
            n = up.astype(np.float32)
            look = n[0] * gu + n[1] * gv - n[2] * along
            level = look * look > np.float32(LEVEL**2) * square
            grazing &= ~(level & (seen > np.float32(LEVEL_GRAZING**2) * square))
    return np.asarray(grazing & _jumps(z, region.stride))


def _jumps(z: Depth, stride: int) -> Mask:
    """Mark the cells (h,w), stride px apart, around which depth (m) differs by a jump."""
    side = 2 * max(1, round(JUMP_PX / stride)) + 1
    known, kernel = np.isfinite(z), np.ones((side, side), np.uint8)
    far = cv2.dilate(np.where(known, z, np.float32(0)), kernel)
    near = cv2.erode(np.where(known, z, np.float32(FARTHEST_M)), kernel)
    return np.asarray(far - near > JUMP_M)


def _slope(z: Depth, cells: int, axis: int) -> Depth:
    """Return by how much z (h,w) m changes over some cells along an axis: the smaller change of both sides.

    So the last pixel before a sharp edge is not a ramp. 0 where a side is unknown, or the sides disagree.
    """
    change = np.full_like(z, np.nan)
    inner = (slice(None), slice(cells, None)) if axis else (slice(cells, None), slice(None))
    outer = (slice(None), slice(None, -cells)) if axis else (slice(None, -cells), slice(None))
    change[inner] = z[inner] - z[outer]  # from the cell before
    after = np.full_like(z, np.nan)
    after[outer] = change[inner]
    with np.errstate(invalid="ignore"):
        smaller = np.where(np.abs(change) < np.abs(after), change, after)
        return np.where(change * after > 0, smaller, np.float32(0))


def regrown(z: Depth, own: Mask, free: Mask, step: float, rounds: int = GROW) -> Mask:
    """Add to cells own (h,w) those of free (h,w) beside them that differ by less than step m in z (h,w) m.

    A steep side of the thing itself is seen at as grazing an angle as a ramp, but descends in smaller steps.
    """
    own = own.copy()
    kernel = np.ones((3, 3), np.uint8)
    for _ in range(rounds):
        near = cv2.erode(np.where(own, z, np.float32(np.inf)), kernel)
        far = cv2.dilate(np.where(own, z, np.float32(-np.inf)), kernel)
        with np.errstate(invalid="ignore"):
            new = free & ~own & (z - near > -step) & (z - far < step)
        if not new.any():
            break
        own |= new
    return own
