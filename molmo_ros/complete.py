"""The hidden half of an object, guessed by symmetry.

A camera sees one side. Most things on a table have a vertical mirror plane; the one whose mirror image of
the seen points best agrees with what the camera saw, and did not see, tells the far side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from molmo_ros.cloud import Horizon, normals, voxel_down
from molmo_ros.datatypes import Array, Mask, ObjectSegment
from molmo_ros.errors import SegmentError
from molmo_ros.plane import support_frame
from molmo_ros.transforms import invert, rotate_vectors, transform_points

ANGLES_DEG = tuple(range(-60, 61, 15))  # of the mirror's normal to the horizontal view direction
SHIFTS = (-0.06, 0.0, 0.06, 0.12, 0.18, 0.25, 0.32)  # of the mirror behind the middle, in seen extents
MIN_POINTS = 10
MIRRORED = 160  # points that a mirror is judged by
BACKS_M = (0.015, 0.035, 0.055)  # behind a neighbour's seen face
CUT_OFF_M = 0.014  # a side that ends lower than this was cut off with the support
SKIRT_ROWS = 4  # at least
SIDE_KNOWN = 0.04  # share of the points that must look to a side for it to count as known
MOST_IN_FREE_SPACE, MOST_FOR_SECOND = 0.2, 0.03


@dataclass(frozen=True)
class Shape:
    """An object as the planner sees it, in its support frame: z up from the support, origin below its middle.

    points and normals (N,3), outward; seen (N,) False where guessed; spacing m of the points, and pixel m
    of the depth image there; scene (S,3) the other things; eye (3,) the camera; T_camera_support (4,4);
    horizon what the camera saw; has_floor False if no support is known.
    """

    points: Array
    normals: Array
    seen: Mask
    spacing: float
    pixel: float
    scene: Array
    eye: Array
    T_camera_support: Array
    horizon: Horizon
    has_floor: bool

    def depth_behind_seen(self, points: Array) -> Array:
        """Return how far (...,) m points (...,3) lie behind what the camera saw there; -inf in the open."""
        camera = transform_points(self.T_camera_support, points)
        return np.asarray(camera[..., 2] - self.horizon.depth_towards(camera))


@dataclass(frozen=True)
class Views:
    """The same shape twice: `coarse` to think with (some 500 points), `dense` to make sure with."""

    coarse: Shape
    dense: Shape


def complete_shape(segment: ObjectSegment, up: Array | None = None, mirror: bool = True) -> Views:
    """Thin a segment out, move it to its support frame, and add its hidden half if symmetry tells it.

    Raises: SegmentError if the segment holds next to no points.
    """
    if len(segment.cloud_m) < MIN_POINTS:
        raise SegmentError(
            f"The object has {len(segment.cloud_m)} points, {MIN_POINTS} are needed; check mask and depth."
        )
    T_support_camera = support_frame(segment.plane, up, segment.cloud_m)
    cloud, spacing = voxel_down(segment.cloud_m, 0.004, at_most=420)
    dense_cloud, dense_spacing = voxel_down(segment.cloud_m, 0.0025, at_most=3000)
    # noise grows with the square of the distance: farther away it takes more surface to tell its direction
    n = normals(cloud, dense_cloud, max(0.008, 0.014 * float(np.median(cloud[:, 2])) ** 2, 3 * dense_spacing))
    scene, _ = voxel_down(segment.scene_m, 0.007, at_most=450)
    pixel = _pixel_spacing(segment.cloud_m)
    coarse = Shape(
        points=transform_points(T_support_camera, cloud),
        normals=rotate_vectors(T_support_camera, n),
        seen=np.ones(len(cloud), dtype=np.bool_),
        spacing=spacing,
        pixel=pixel,
        scene=transform_points(T_support_camera, scene),
        eye=T_support_camera[:3, 3],
        T_camera_support=invert(T_support_camera),
        horizon=Horizon.of(np.concatenate([segment.cloud_m, segment.scene_m]), pixel),
        has_floor=segment.plane is not None,
    )
    dense = _densified(coarse, dense_cloud, dense_spacing, segment.scene_m, T_support_camera)
    first: Array | None = None
    for _ in range(2 if mirror else 0):
        found = _best_mirror(coarse, first)
        if found is None:
            break
        coarse, dense, first = _with_image(coarse, *found), _with_image(dense, *found), found[0]
    if mirror:
        angle = rectangle_angle(coarse.points[:, :2])
        coarse, dense = _with_skirts(coarse, angle), _with_skirts(dense, angle)
    return Views(coarse, replace(dense, scene=_with_backs(dense)))


def _pixel_spacing(cloud: Array) -> float:
    """Return the distance in m of neighbours in a row of the image, at least 1 mm."""
    return max(0.001, float(np.median(np.linalg.norm(np.diff(cloud[:, :2], axis=0), axis=1))))


def _densified(coarse: Shape, cloud: Array, spacing: float, scene: Array, T_support_camera: Array) -> Shape:
    """Return the shape with denser points (M,3), which get the normals of the nearest coarse ones."""
    points = transform_points(T_support_camera, cloud)
    nearest = cKDTree(coarse.points).query(points)[1]
    return replace(
        coarse,
        points=points,
        normals=coarse.normals[nearest],
        seen=np.ones(len(points), dtype=np.bool_),
        spacing=spacing,
        scene=transform_points(T_support_camera, scene),
    )


def _with_backs(shape: Shape) -> Array:
    """Give the other things (S,3) some thickness: what is just behind their seen faces is theirs, too.

    Unless it is the object's own: what nobody saw within its outline belongs to it.
    """
    scene = shape.scene
    if len(scene) == 0:
        return scene
    view = scene - shape.eye
    view[:, 2] = 0.0
    view /= np.maximum(np.linalg.norm(view, axis=1, keepdims=True), 1e-6)
    backs = (scene[:, None] + np.array(BACKS_M)[:, None] * view[:, None]).reshape(-1, 3)
    backs = backs[shape.depth_behind_seen(backs) > 0.005]
    return np.concatenate([scene, backs[~in_hull(backs[:, :2], shape.points[:, :2], 0.004)]])


def in_hull(points: Array, of: Array, margin: float) -> Mask:
    """Mark the points (N,2) in the convex hull of others (M,2) m, or within margin m of it."""
    corners = hull(of)
    edge = np.roll(corners, -1, axis=0) - corners
    length = np.hypot(edge[:, 0], edge[:, 1])
    corners, edge = corners[length > 1e-9], edge[length > 1e-9] / length[length > 1e-9, None]
    outward = np.stack([edge[:, 1], -edge[:, 0]], axis=1)
    beyond = points @ outward.T - np.sum(corners * outward, axis=1)
    return np.asarray(beyond.max(axis=1, initial=-np.inf) < margin)


def hull(points: Array) -> Array:
    """Return the corners (C,2) of the convex hull of points (N,2), counter-clockwise."""
    return np.asarray(
        points[cv2.convexHull(points.astype(np.float32), clockwise=False, returnPoints=False)[:, 0]]
    )


def _best_mirror(shape: Shape, first: Array | None) -> tuple[Array, float] | None:
    """Find the mirror plane, unit normal (3,) and offset m, whose image the camera's view contradicts least.

    After a first mirror with normal `first`, one across it completes the corner of a box, and is held to a
    stricter measure. Returns None if every image sticks out into space that was seen to be free.
    """
    normal, offset = _mirror_planes(shape, first)
    points = shape.points[:: max(1, len(shape.points) // MIRRORED)]
    image = points - 2 * (points @ normal.T - offset).T[..., None] * normal[:, None]  # (M,N,3)
    behind = shape.depth_behind_seen(image)
    tolerance = 0.003 + 0.5 * shape.spacing
    free, hidden = (behind < -tolerance).mean(axis=1), (behind > tolerance).mean(axis=1)
    score = 1 - 4 * free + 0.1 * hidden
    best = int(np.argmax(score))
    most = MOST_IN_FREE_SPACE if first is None else MOST_FOR_SECOND
    return None if free[best] > most else (normal[best], float(offset[best]))


def _with_image(shape: Shape, normal: Array, offset: float) -> Shape:
    """Add those mirrored points that the camera cannot have seen."""
    image = shape.points - 2 * (shape.points @ normal - offset)[:, None] * normal
    new = shape.depth_behind_seen(image) > 0.003 + 0.5 * shape.spacing
    if shape.has_floor:
        new &= image[:, 2] > 0.002
    turned = shape.normals - 2 * (shape.normals @ normal)[:, None] * normal
    return replace(
        shape,
        points=np.concatenate([shape.points, image[new]]),
        normals=np.concatenate([shape.normals, turned[new]]),
        seen=np.concatenate([shape.seen, np.zeros(np.count_nonzero(new), dtype=np.bool_)]),
    )


def _with_skirts(shape: Shape, angle: float) -> Shape:
    """Let the outline hang straight down to the support on each side (angle rad, and square
    to it) of which nothing is known.

    What lies, bent or round, has no mirror plane to be found, and a side that is seen edge-on has no
    image; but each is at least as far out as the outline. A side that is known is only continued where it
    was cut off with the support. The normals of a skirt are level.
    """
    if not shape.has_floor:
        return shape
    skirts = [_skirt(shape, np.array([np.cos(a), np.sin(a), 0.0])) for a in angle + np.arange(4) * np.pi / 2]
    points, n = (np.concatenate(parts) for parts in zip(*skirts, strict=True))
    return replace(
        shape,
        points=np.concatenate([shape.points, points]),
        normals=np.concatenate([shape.normals, n]),
        seen=np.concatenate([shape.seen, np.zeros(len(points), dtype=np.bool_)]),
    )


def _skirt(shape: Shape, outward: Array) -> tuple[Array, Array]:
    """Return points (S,3) below the outermost seen ones in the level direction outward (3,), and normals."""
    seen = shape.points[shape.seen]
    known = bool((shape.normals @ outward > 0.7).mean() > SIDE_KNOWN)
    hem = _outline(seen, outward, shape.spacing, lowest=known)
    if len(hem) < 3:
        return np.zeros((0, 3)), np.zeros((0, 3))
    side = np.array([-outward[1], outward[0], 0.0])
    slope = np.gradient(gaussian_filter1d(hem @ outward, 2.0), hem @ side)
    n = outward - slope[:, None] * side
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    highest = float(hem[:, 2].max())
    step = min(shape.spacing, highest / SKIRT_ROWS)  # a flat thing has sides, too
    steps = np.arange(1, int(highest / step) + 1) * step
    hanging = np.repeat(hem[:, None], len(steps), axis=1)
    hanging[..., 2] -= steps
    new = hanging[..., 2] > 0.002
    cut_off = np.broadcast_to(hem[:, None, 2] < CUT_OFF_M, new.shape)
    if known:
        new &= cut_off
    else:  # judged a little inside, for a wall seen edge-on is neither seen nor hidden
        hidden = shape.depth_behind_seen(hanging - 0.003 * outward) > 0.003 + 0.5 * shape.spacing
        new &= hidden | cut_off
    return hanging[new], np.repeat(n[:, None], len(steps), axis=1)[new]


def _outline(points: Array, outward: Array, spacing: float, lowest: bool) -> Array:
    """Return the outermost of points (N,3) in each strip across a direction, or the lowest near them."""
    along, across = points @ outward, points @ np.array([-outward[1], outward[0], 0.0])
    cell = np.floor((across - across.min()) / spacing).astype(np.intp)
    if lowest:
        farthest = np.full(int(cell.max()) + 1, -np.inf)
        np.maximum.at(farthest, cell, along)
        near = along > farthest[cell] - 0.004
        points, cell, along = points[near], cell[near], -points[near, 2]
    order = np.lexsort((-along, cell))
    return np.asarray(points[order[np.unique(cell[order], return_index=True)[1]]])


def _mirror_planes(shape: Shape, first: Array | None) -> tuple[Array, Array]:
    """Propose vertical mirror planes: unit normals (M,3) that look away from the camera, offsets (M,) m."""
    middle = shape.points.mean(axis=0)
    view = np.arctan2(*(middle - shape.eye)[1::-1])
    if first is None:
        angle = np.concatenate([view + np.radians(ANGLES_DEG), _flush_angles(shape.points[:, :2], view)])
    else:
        across = np.arctan2(first[0], -first[1]) + np.radians((-15.0, 0.0, 15.0))
        angle = np.where(np.cos(across - view) < 0, across + np.pi, across)
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    along = shape.points[:, :2] @ directions.T
    low, high = np.quantile(along, (0.01, 0.99), axis=0)
    # only what lies along the view is hidden: across it the middle is the middle
    depth_share = np.abs(np.cos(angle - view))[:, None]
    offset = (low + high)[:, None] / 2 + np.array(SHIFTS) * depth_share * (high - low)[:, None]
    normal = np.concatenate([directions, np.zeros((len(angle), 1))], axis=1)
    return np.repeat(normal, len(SHIFTS), axis=0), offset.ravel()


def _flush_angles(points: Array, view: float) -> Array:
    """Return the directions (2,) of the sides of the rectangle around points (N,2), along the view."""
    angle = rectangle_angle(points) + np.array([0.0, np.pi / 2])
    return np.asarray(np.where(np.cos(angle - view) < 0, angle + np.pi, angle))


def rectangle_angle(points: Array) -> float:
    """Return the direction (rad) of one side of the rectangle of least area around points (N,2).

    Source: Freeman and Shapira 1975: one side of it is flush with the convex hull.
    """
    corners = hull(points)
    edge = np.roll(corners, -1, axis=0) - corners
    angle = np.arctan2(edge[:, 1], edge[:, 0])
    c, s = np.cos(angle), np.sin(angle)
    x = corners @ np.stack([c, s])
    y = corners @ np.stack([-s, c])
    return float(angle[np.argmin(np.ptp(x, axis=0) * np.ptp(y, axis=0))])
