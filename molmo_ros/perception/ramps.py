"""Where depth runs as a ramp from one surface to another behind it, though nothing is there.

Stereo matching compares windows, and at the edge of a thing a window shows two surfaces: the disparities in
between are no surface of anything. Such a ramp, 2 to 12 px wide, lies nearly along the ray.
"""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Depth, Index, Mask

REACH_PX = 2  # slopes are taken over twice as much: less is at the mercy of noise
GRAZING = 0.45  # |cos| of ray and normal: what is seen so flat is a ramp, or not measured well
GROW, STEP_M = 3, 0.006  # cells that a steep side may add to an object, and the largest step between them
JUMP_M, JUMP_PX = 0.015, 4  # what depth changes by across a ramp, at least, and how near
LEVEL, LEVEL_GRAZING = 0.94, 0.2  # but level faces are seen so by a low camera


def ramps(depth: Depth, v: Index, u: Index, K: Array, up: Array | None = None) -> Mask:
    """Mark which pixels at rows v (h,) and columns u (w,), evenly spaced, of depth (H,W) m are of ramps.

    They are seen at a grazing angle, and depth jumps across them.
    Args: up (3,), unit, normal of the support: faces that look there may be seen flatter than others.
    With g the gradient of z in m/px, the normal is along (g_u fx, g_v fy, -(z + (u-cx) g_u + (v-cy) g_v)).
    """
    x, y = ((u - K[0, 2]) / K[0, 0]).astype(np.float32), ((v - K[1, 2]) / K[1, 1]).astype(np.float32)[:, None]
    z = depth[np.ix_(v, u)]
    gu = _slope(z, depth, v, u, (0, REACH_PX)) * np.float32(K[0, 0])
    gv = _slope(z, depth, v, u, (REACH_PX, 0)) * np.float32(K[1, 1])
    along = z + x * gu + y * gv
    length = np.sqrt(gu * gu + gv * gv + along * along)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = z / (length * np.sqrt(1 + x * x + y * y))
        grazing = cosine < GRAZING
        if up is not None:
            n = up.astype(np.float32)
            level = np.abs(n[0] * gu + n[1] * gv - n[2] * along) > LEVEL * length
            grazing &= ~(level & (cosine > LEVEL_GRAZING))
    return np.asarray(grazing & _jumps(z, int(v[1] - v[0]) if len(v) > 1 else 1))


def _jumps(z: Depth, stride: int) -> Mask:
    """Mark the cells (h,w), stride px apart, around which depth (m) differs by a jump."""
    side = 2 * max(1, round(JUMP_PX / stride)) + 1
    known, kernel = np.isfinite(z), np.ones((side, side), np.uint8)
    far = cv2.dilate(np.where(known, z, np.float32(-np.inf)), kernel)
    near = cv2.erode(np.where(known, z, np.float32(np.inf)), kernel)
    with np.errstate(invalid="ignore"):  # where nothing is known
        return np.asarray(far - near > JUMP_M)


def _slope(z: Depth, depth: Depth, v: Index, u: Index, step: tuple[int, int]) -> Depth:
    """Return dz (h,w) in m per px along a step (rows, columns): the smaller one of both sides.

    So the last pixel before a sharp edge is no ramp. 0 where a side is not known, or the sides disagree.
    """
    dv, du = step
    reach = np.float32(dv + du)
    before = (z - _shifted(depth, v - dv, u - du)) / reach
    after = (_shifted(depth, v + dv, u + du) - z) / reach
    with np.errstate(invalid="ignore"):
        smaller = np.where(np.abs(before) < np.abs(after), before, after)
        return np.where(before * after > 0, smaller, np.float32(0))


def _shifted(depth: Depth, v: Index, u: Index) -> Depth:
    """Return depth at rows v and columns u, NaN outside of the image."""
    height, width = depth.shape
    inside = ((v >= 0) & (v < height))[:, None] & ((u >= 0) & (u < width))
    part = depth[np.ix_(np.clip(v, 0, height - 1), np.clip(u, 0, width - 1))]
    return np.where(inside, part, np.float32(np.nan))


def regrown(z: Depth, own: Mask, free: Mask, step: float, rounds: int = GROW) -> Mask:
    """Add to cells own (h,w) those of free (h,w) beside them that differ by less than step m in z (h,w) m.

    A steep side of the thing itself is seen as grazing as a ramp, but goes down in smaller steps.
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
