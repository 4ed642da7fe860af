"""The hidden half of an object, guessed by symmetry.

A camera sees one side. Most things on a table have a vertical mirror plane; the one whose mirror image of
the seen points best agrees with what the camera saw, and did not see, tells the far side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from molmo_ros.cloud import Horizon, normals, voxel_down
from molmo_ros.datatypes import Array, Mask, ObjectSegment
from molmo_ros.plane import support_frame
from molmo_ros.transforms import invert, rotate_vectors, transform_points

ANGLES_DEG = tuple(range(-60, 61, 15))  # of the mirror's normal to the horizontal view direction
SHIFTS = (-0.06, 0.0, 0.06, 0.12, 0.18, 0.25, 0.32)  # of the mirror behind the middle, in seen extents
MOST_IN_FREE_SPACE = 0.2


@dataclass(frozen=True)
class Shape:
    """An object as the planner sees it, in its support frame: z up, z = 0 the support, origin below its middle.

    points and normals (N,3), outward; seen (N,) False where mirrored; spacing m of the points; scene (S,3)
    the other things; eye (3,) the camera; T_camera_support (4,4); horizon what the camera saw; has_floor
    False if no support is known.
    """

    points: Array
    normals: Array
    seen: Mask
    spacing: float
    scene: Array
    eye: Array
    T_camera_support: Array
    horizon: Horizon
    has_floor: bool

    def depth_behind_seen(self, points: Array) -> Array:
        """Return how far (...,) m points (...,3) lie behind what the camera saw there; -inf in the open."""
        camera = transform_points(self.T_camera_support, points)
        return np.asarray(camera[..., 2] - self.horizon.depth_towards(camera))


def complete_shape(segment: ObjectSegment, up: Array | None = None, mirror: bool = True) -> Shape:
    """Thin a segment out, move it to its support frame, and add its hidden half if symmetry tells it."""
    T_support_camera = support_frame(segment.plane, up, segment.cloud_m)
    cloud, spacing = voxel_down(segment.cloud_m, 0.004, at_most=520)
    n, _ = normals(cloud, np.zeros(3), 3 * spacing)
    scene, _ = voxel_down(segment.scene_m, 0.007, at_most=600)
    seen_points = np.concatenate([segment.cloud_m, segment.scene_m])
    # neighbours in a row of the image: their median distance is the pixel spacing
    step = float(np.median(np.linalg.norm(np.diff(segment.cloud_m, axis=0), axis=1)))
    shape = Shape(
        points=transform_points(T_support_camera, cloud),
        normals=rotate_vectors(T_support_camera, n),
        seen=np.ones(len(cloud), dtype=np.bool_),
        spacing=spacing,
        scene=transform_points(T_support_camera, scene),
        eye=T_support_camera[:3, 3],
        T_camera_support=invert(T_support_camera),
        horizon=Horizon.of(seen_points, max(step, 0.0015)),
        has_floor=segment.plane is not None,
    )
    return _with_mirror_image(shape) if mirror and len(cloud) >= 10 else shape


def _with_mirror_image(shape: Shape) -> Shape:
    """Add the mirrored points that the camera cannot have seen."""
    normal, offset = _mirror_planes(shape)
    mirrored = shape.points - 2 * (shape.points @ normal.T - offset).T[..., None] * normal[:, None]  # (M,N,3)
    behind = shape.depth_behind_seen(mirrored)
    tolerance = 0.003 + 0.5 * shape.spacing
    free = behind < -tolerance
    hidden = behind > tolerance
    reach = np.abs(offset - np.median(offset)) / (np.ptp(offset) + 1e-9)
    score = 1 - 4 * free.mean(axis=1) - 0.2 * hidden.mean(axis=1) - 0.1 * reach
    best = int(np.argmax(score))
    if free[best].mean() > MOST_IN_FREE_SPACE:
        return shape
    new = hidden[best]
    if shape.has_floor:
        new &= mirrored[best, :, 2] > 0.002
    n = shape.normals - 2 * (shape.normals @ normal[best])[:, None] * normal[best]
    return Shape(
        points=np.concatenate([shape.points, mirrored[best, new]]),
        normals=np.concatenate([shape.normals, n[new]]),
        seen=np.concatenate([shape.seen, np.zeros(np.count_nonzero(new), dtype=np.bool_)]),
        spacing=shape.spacing,
        scene=shape.scene,
        eye=shape.eye,
        T_camera_support=shape.T_camera_support,
        horizon=shape.horizon,
        has_floor=shape.has_floor,
    )


def _mirror_planes(shape: Shape) -> tuple[Array, Array]:
    """Propose vertical mirror planes: unit normals (M,3) that look away from the camera, offsets (M,) m."""
    middle = shape.points.mean(axis=0)
    view = np.arctan2(*(middle - shape.eye)[1::-1])
    angle = np.concatenate([view + np.radians(ANGLES_DEG), _flush_angles(shape.points[:, :2], view)])
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    along = shape.points[:, :2] @ directions.T
    low, high = np.quantile(along, (0.01, 0.99), axis=0)
    # only what lies along the view is hidden: across it the middle is the middle
    depth_share = np.abs(np.cos(angle - view))[:, None]
    offset = (low + high)[:, None] / 2 + np.array(SHIFTS) * depth_share * (high - low)[:, None]
    normal = np.concatenate([directions, np.zeros((len(angle), 1))], axis=1)
    return np.repeat(normal, len(SHIFTS), axis=0), offset.ravel()


def _flush_angles(points: Array, view: float) -> Array:
    """Return the two directions (2,) of the tightest rectangle around points (N,2), looking along the view."""
    angle = rectangle_angle(points) + np.array([0.0, np.pi / 2])
    return np.asarray(np.where(np.cos(angle - view) < 0, angle + np.pi, angle))


def rectangle_angle(points: Array) -> float:
    """Return the direction (rad) of one side of the rectangle of least area around points (N,2).

    Source: Freeman and Shapira 1975: one side of it is flush with the convex hull.
    """
    try:
        corners = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):  # on a line
        spread = points - points.mean(axis=0)
        direction = np.linalg.svd(spread, full_matrices=False)[2][0]
        return float(np.arctan2(direction[1], direction[0]))
    edge = np.roll(corners, -1, axis=0) - corners
    angle = np.arctan2(edge[:, 1], edge[:, 0])
    c, s = np.cos(angle), np.sin(angle)
    x = corners @ np.stack([c, s])
    y = corners @ np.stack([-s, c])
    return float(angle[np.argmin(np.ptp(x, axis=0) * np.ptp(y, axis=0))])
