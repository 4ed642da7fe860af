"""What was measured between the fingers, and beside them: is it the object, and does it stand out?"""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Grasp, Index, ObjectSegment, RgbdFrame
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.transforms import invert, pose_matrix, transform_points

MARGIN_PX = 2
MANY_PX = 6000  # of fewer, each is checked; of more, one in STEP_PX in each direction
STEP_PX = 2
FLOOR_M = 0.008  # what is lower belongs to the support, which the planner keeps clear of
INNER_M = 0.002  # this near to a finger it may be its own noise
LEAST_OWN_M2 = 4e-5  # of the object's surface between the fingers; of a mug's rim it is 1 cm2
WIDER_PX = 2  # an outline may be this far off
LEAST_RELIEF_M, LEAST_POINTS = 0.004, 6  # what is held stands out from what is beside it on both sides
FROM_M, TO_M = 0.004, 0.014  # from the fingers' contact: this counts as beside it; nearer, stereo smears
DEEP_M = 0.05  # along the approach, before and behind the fingertips


def another_between(frame: RgbdFrame, segment: ObjectSegment, grasp: Grasp, gripper: Gripper) -> str | None:
    """Object to fingers between which was measured mostly what is not the object, or hardly any of it.

    The planner grasps a shape that it has completed: where another thing stands on the object, or in a hole
    of the depth, it may grasp what nobody has seen.
    """
    u, v, area = measured_between(frame, grasp, gripper, segment.plane)
    own = cv2.dilate(segment.mask.astype(np.uint8), np.ones((2 * WIDER_PX + 1,) * 2, np.uint8))[v, u] > 0
    mine, other = float(area[own].sum()), float(area[~own].sum())
    if mine >= max(other, LEAST_OWN_M2):
        return None
    return (
        f"Between the fingers {1e4 * mine:.1f} cm2 of the object were measured and {1e4 * other:.1f} cm2 of "
        f"something else; it must be the object mostly, and {1e4 * LEAST_OWN_M2:.1f} cm2 of it: point at a "
        "part that is in view, or look from another side."
    )


def measured_between(
    frame: RgbdFrame, grasp: Grasp, gripper: Gripper, plane: Array | None
) -> tuple[Index, Index, Array]:
    """Return column and row (N,) of what was measured between the fingers, and its area (N,) m2 across the
    view; without what lies on the support, the plane (4,), if one is known.
    """
    wide = max(grasp.opening, grasp.width)  # the opening may be unknown, if from another planner
    inner = np.array([gripper.finger_width, wide]) / 2 - INNER_M
    reach = -gripper.finger_length, -INNER_M
    u, v, local = _seen_around(frame, grasp, inner, reach)
    x, y, z = local.T
    between = (np.abs(x) < inner[0]) & (np.abs(y) < inner[1]) & (z > reach[0]) & (z < reach[1])
    if plane is not None:
        rays = np.stack([(u - frame.K[0, 2]) / frame.K[0, 0], (v - frame.K[1, 2]) / frame.K[1, 1]])
        between &= frame.depth[v, u] * (plane[:2] @ rays + plane[2]) + plane[3] >= FLOOR_M
    u, v = u[between], v[between]
    return u, v, frame.depth[v, u].astype(np.float64) ** 2 / (frame.K[0, 0] * frame.K[1, 1])


def on_surface(frame: RgbdFrame, grasp: Grasp, gripper: Gripper) -> str | None:
    """Object to fingers that pinch a surface, as the floor of a bowl, where nothing stands out of it."""
    width = max(grasp.width, 0.004)
    half = np.array([gripper.finger_width / 2, width / 2 + TO_M])
    x, y, depth = _seen_around(frame, grasp, half, (-DEEP_M, DEEP_M), STEP_PX)[2].T
    strip = (np.abs(x) < half[0]) & (np.abs(depth) < DEEP_M)
    held = strip & (np.abs(y) < width / 2)
    if np.count_nonzero(held) < LEAST_POINTS:
        return None
    top = float(np.quantile(depth[held], 0.2))
    relief = []
    for side in (1, -1):
        beside = strip & (side * y > width / 2 + FROM_M) & (side * y < half[1])
        if np.count_nonzero(beside) >= LEAST_POINTS:
            relief.append(float(np.median(depth[beside])) - top)
    if not relief or min(relief) >= LEAST_RELIEF_M:
        return None
    return (
        f"What the fingers would close on, {1000 * width:.0f} mm wide, stands out of what is beside it by "
        f"{1000 * min(relief):.0f} mm only, of {1000 * LEAST_RELIEF_M:.0f} needed: it is part of a surface; "
        "point at an edge or a rim, or look from another side."
    )


def _seen_around(
    frame: RgbdFrame, grasp: Grasp, half: Array, reach: tuple[float, float], step: int = 1
) -> tuple[Index, Index, Array]:
    """Return column and row (N,) of the measured pixels in a box of the hand, and their place (N,3) m in it.

    half (2,) m: half the box along x and y; reach: its ends along z, the approach. Pixels near the box are
    included; step: take only every step-th pixel in each direction, for a large box.
    """
    box = np.array([(s * half[0], t * half[1], z) for s, t, z in product((-1, 1), (-1, 1), reach)])
    T = pose_matrix(grasp.pose)
    pixel = transform_points(T, box) @ frame.K.T
    pixel = pixel[:, :2] / np.maximum(pixel[:, 2:], 1e-6)
    height, width = frame.depth.shape
    low = np.clip(pixel.min(axis=0) - MARGIN_PX, 0, [width, height]).astype(np.intp)
    high = np.clip(pixel.max(axis=0) + MARGIN_PX + 1, 0, [width, height]).astype(np.intp)
    if np.prod(high - low) < MANY_PX:
        step = 1
    z = frame.depth[low[1] : high[1] : step, low[0] : high[0] : step]
    i, j = np.nonzero(np.isfinite(z) & (z > 0))
    depth = z[i, j].astype(np.float64)
    u, v = low[0] + step * j, low[1] + step * i
    K = frame.K
    points = np.stack([(u - K[0, 2]) / K[0, 0] * depth, (v - K[1, 2]) / K[1, 1] * depth, depth], axis=1)
    return u, v, transform_points(invert(T), points)
