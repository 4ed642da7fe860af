"""Unseen space: behind things and in holes of the depth, where a hand may hit anything.

Each guard returns what speaks against a grasp, or None.
"""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Grasp, Mask, ObjectSegment, RgbdFrame
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.places import finger_places, pixels_of, places_of
from molmo_ros.grasp.sweep import TRAVEL_M
from molmo_ros.transforms import invert, pose_matrix, transform_points

HIDDEN_M = 0.015  # behind what was seen
MOST_HIDDEN = 0.6  # share of the palm's approach path that nobody saw
THIN_M, MOST_BESIDE = 0.020, 0.7  # thinner things are walls; share of one side of it that nobody saw
BESIDE_M, BEHIND_M = (0.002, 0.010), 0.004  # from a wall: the space that is checked; behind what was seen
RIM_M, INNER_M, DEEP_M = (
    0.010,
    0.008,
    0.012,
)  # height of a rim; from it inwards, and below it, vessels are open
LEAST_OPEN, LATTICE_M = 0.3, 0.003  # least share of the inside that was seen to be empty


def way_unseen(frame: RgbdFrame, grasp: Grasp, gripper: Gripper) -> str | None:
    """Object to a palm that approaches through space that nobody saw: behind things, or without depth."""
    share = hidden_share(frame, grasp, gripper)
    if share <= MOST_HIDDEN:
        return None
    return (
        f"The camera did not see {share:.0%} of the hand's way in, and may have missed what is there, of at "
        f"most {MOST_HIDDEN:.0%} allowed; look from another side."
    )


def fingers_unseen(frame: RgbdFrame, grasp: Grasp, gripper: Gripper) -> str | None:
    """Object to a grasp if both fingers end in a hole of the depth, or behind what was seen.

    One finger often does: the one on the far side of the thing.
    """
    share = []
    for places in finger_places(grasp, gripper):
        hidden, unknown = _behind(frame, places, HIDDEN_M)
        share.append(float(np.mean(hidden | unknown)))
    if min(share) <= MOST_HIDDEN:
        return None
    return (
        f"Of the places of both fingers {share[0]:.0%} and {share[1]:.0%} were not seen: they would end in a "
        "hole of the depth, or behind what was seen; look from another side."
    )


def thickness_unseen(frame: RgbdFrame, segment: ObjectSegment, grasp: Grasp, gripper: Gripper) -> str | None:
    """Object to fingers around a thin wall of which only one side was seen, unless it belongs to a vessel.

    The front of a box whose top is not seen looks like a wall, and would be pinched like one. A vessel can be
    looked into: space inside and below its rim was seen to be empty.
    """
    if grasp.width > THIN_M:
        return None
    share = [_unseen_beside(frame, grasp, gripper, side) for side in (-1.0, 1.0)]
    if max(share) < MOST_BESIDE or _open_inside(frame, segment, grasp, gripper) >= LEAST_OPEN:
        return None
    return (
        f"What the fingers would close on seems {1000 * grasp.width:.0f} mm thick, but {max(share):.0%} of "
        f"the space on one side of it was not seen, of at most {MOST_BESIDE:.0%} allowed: it may be the "
        "front of something solid; look from higher up or from another side."
    )


def _unseen_beside(frame: RgbdFrame, grasp: Grasp, gripper: Gripper, side: float) -> float:
    """Return the share of the space just beside one contact that was not seen."""
    axes = (
        np.linspace(-gripper.finger_width / 2, gripper.finger_width / 2, 5),
        side * (grasp.width / 2 + np.linspace(*BESIDE_M, 5)),
        -np.linspace(0.0, 0.75 * gripper.pad_length, 5),
    )
    hidden, unknown = _unseen(frame, grasp, axes, BEHIND_M)
    return float(np.mean(hidden | unknown))


def _open_inside(frame: RgbdFrame, segment: ObjectSegment, grasp: Grasp, gripper: Gripper) -> float:
    """Return the share of the space inside the object, just below the height of the contact, that was seen
    to be empty: 0 of solid things and of walls, about 0.5 to 0.9 of vessels."""
    T = pose_matrix(grasp.pose)
    up = -T[:3, 2] if segment.plane is None else np.asarray(segment.plane[:3], dtype=np.float64)
    across = np.linalg.svd(up[None])[2][1:]  # (2,3), the axes of a horizontal plane
    points = np.asarray(segment.cloud_m, dtype=np.float64)
    x, y, z = np.abs(transform_points(invert(T), points).T)
    at = (x < gripper.finger_width / 2) & (y < grasp.width / 2 + BEHIND_M) & (z < gripper.finger_length)
    if not at.any():
        return 0.0
    height = points @ up
    top = float(np.quantile(height[at], 0.9))
    flat = points[np.abs(height - top) < RIM_M] @ across.T
    outline = cv2.convexHull(flat.astype(np.float32))
    low, high = flat.min(axis=0), flat.max(axis=0)
    grid = np.stack(
        np.meshgrid(*(np.arange(a, b, LATTICE_M) for a, b in zip(low, high, strict=True))), axis=-1
    )
    inside = [g for g in grid.reshape(-1, 2).tolist() if cv2.pointPolygonTest(outline, g, True) > INNER_M]
    if not inside:
        return 0.0
    places = np.array(inside) @ across + (top - DEEP_M) * up
    hidden, unknown = _behind(frame, places, 0.0)
    return float(np.mean(~hidden & ~unknown))


def hidden_share(frame: RgbdFrame, grasp: Grasp, gripper: Gripper) -> float:
    """Return the share of the palm's approach path that lies behind what was seen; out of view counts
    half."""
    x, y, depth = gripper.palm
    axes = (
        np.linspace(-x / 2, x / 2, 3),
        np.linspace(-y / 2, y / 2, 7),
        -gripper.finger_length - np.linspace(0.0, depth + TRAVEL_M, 6),
    )
    hidden, unknown = _unseen(frame, grasp, axes)
    return float(np.mean(hidden) + 0.5 * np.mean(unknown & ~hidden))


def _unseen(
    frame: RgbdFrame, grasp: Grasp, axes: tuple[Array, Array, Array], behind: float = HIDDEN_M
) -> tuple[Mask, Mask]:
    """Mark which places (N,) of a lattice in the grasp's frame lie more than `behind` m behind what was seen,
    and which were not seen.
    """
    return _behind(frame, places_of(grasp, axes), behind)


def _behind(frame: RgbdFrame, camera: Array, behind: float) -> tuple[Mask, Mask]:
    """Mark which places (N,3) m lie more than `behind` m behind what was seen, and which were not seen."""
    u, v, inside = pixels_of(frame, camera)
    seen = frame.depth[v, u]
    with np.errstate(invalid="ignore"):
        hidden = inside & (camera[:, 2] > seen + behind)
    return hidden, ~inside | ~np.isfinite(seen)
