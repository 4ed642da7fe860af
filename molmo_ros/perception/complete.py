"""The hidden half of an object, guessed by symmetry.

A camera sees one side. Most things on a table have a vertical mirror plane; the one whose mirror image of the
seen points best agrees with what the camera saw, and did not see, gives the far side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Array, Mask, ObjectSegment
from molmo_ros.errors import SegmentError
from molmo_ros.perception.cloud import (
    Horizon,
    normals,
    pixel_spacing,
    voxel_down,
    voxel_index,
    voxel_means,
    voxels,
)
from molmo_ros.perception.outline import in_hull, level_normals, outermost, rectangle_angle
from molmo_ros.perception.plane import support_frame
from molmo_ros.perception.prism import prism, top_of
from molmo_ros.transforms import invert, rotate_vectors, transform_points

ANGLES_DEG = tuple(range(-60, 61, 15))  # of the mirror's normal to the horizontal view direction
SHIFTS = (-0.06, 0.0, 0.06, 0.12, 0.18, 0.25, 0.32)  # of the mirror behind the middle, in seen extents
MIN_POINTS = 10
MIRRORED = 160  # points by which a mirror is judged
BACKS_M = (0.015, 0.035, 0.055)  # behind a neighbour's seen face
CUT_OFF_M = 0.014  # a side that ends lower than this was cut off with the support
SKIRT_ROWS = 4  # at least
LOW_M = 0.02  # the sides of anything lower are hardly measured
SIDE_KNOWN = 0.04  # share of the points that must face a side for it to count as known
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

    @cached_property
    def solid(self) -> npt.NDArray[np.float32]:
        """x, y, z, 1 (4,N+S) of all points: the object's, then the scene's."""
        x, y, z = np.concatenate([self.points, self.scene]).T
        return np.stack([x, y, z, np.ones(len(x))]).astype(np.float32)

    def depth_behind_seen(self, points: Array) -> Array:
        """Return how far (...,) m points (...,3) lie behind what the camera saw there; -inf in the open."""
        T = self.T_camera_support.astype(np.float32)
        camera = points.astype(np.float32) @ T[:3, :3].T + T[:3, 3]
        return np.asarray(camera[..., 2] - self.horizon.depth_towards(camera))


@dataclass(frozen=True)
class Views:
    """The same shape twice: `coarse` (about 500 points) for the search, `dense` for the final checks."""

    coarse: Shape
    dense: Shape


def complete_shape(segment: ObjectSegment, up: Array | None = None, mirror: bool = True) -> Views:
    """Thin a segment out, move it to its support frame, and add its hidden half if symmetry gives it.

    Raises: SegmentError if the segment holds next to no points.
    """
    if len(segment.cloud_m) < MIN_POINTS:
        raise SegmentError(
            f"The object has {len(segment.cloud_m)} points, {MIN_POINTS} are needed; check mask and depth."
        )
    T_support_camera = support_frame(segment.plane, up, segment.cloud_m)
    dense_cloud, dense_spacing = voxel_down(segment.cloud_m, 0.0025, at_most=3000)
    part, count, spacing = voxels(dense_cloud, 0.004, at_most=420)
    cloud = voxel_means(dense_cloud, part, count)
    # noise grows with the square of the distance: farther away it takes more surface to estimate a normal
    radius = max(0.008, 0.014 * float(np.median(cloud[:, 2])) ** 2, 3 * dense_spacing)
    n = normals(cloud, dense_cloud, radius)
    scene, _ = voxel_down(segment.scene_m, 0.007, at_most=450)
    pixel = pixel_spacing(segment.cloud_m)
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
    dense = replace(
        coarse,
        points=transform_points(T_support_camera, dense_cloud),
        normals=coarse.normals[part],
        seen=np.ones(len(dense_cloud), dtype=np.bool_),
        spacing=dense_spacing,
        scene=transform_points(T_support_camera, segment.scene_m),
    )
    if mirror and coarse.has_floor and top_of(dense.points) < LOW_M:
        coarse, dense = _as_prism(coarse, dense)
        return Views(coarse, replace(dense, scene=_with_backs(dense, coarse.points)))
    first: Array | None = None
    for _ in range(2 if mirror else 0):
        found = _best_mirror(coarse, first)
        if found is None:
            break
        coarse, dense, first = _with_image(coarse, *found), _with_image(dense, *found), found[0]
    if mirror:
        coarse, dense = _with_skirts(coarse, dense, rectangle_angle(coarse.points[:, :2]))
    return Views(coarse, replace(dense, scene=_with_backs(dense, coarse.points)))


def _with_backs(shape: Shape, outline: Array) -> Array:
    """Give the other things (S,3) some thickness: what is just behind their seen faces is theirs, too.

    Except what is the object's own: unseen space within its outline belongs to it.
    """
    scene = shape.scene
    if len(scene) == 0:
        return scene
    view = scene - shape.eye
    view[:, 2] = 0.0
    view /= np.maximum(np.linalg.norm(view, axis=1, keepdims=True), 1e-6)
    backs = (scene[:, None] + np.array(BACKS_M)[:, None] * view[:, None]).reshape(-1, 3)
    backs = backs[shape.depth_behind_seen(backs) > 0.005]
    return np.concatenate([scene, backs[~in_hull(backs[:, :2], outline[:, :2], 0.004)]])


def _best_mirror(shape: Shape, first: Array | None) -> tuple[Array, float] | None:
    """Find the mirror plane, unit normal (3,) and offset m, whose image the camera's view contradicts least.

    After a first mirror with normal `first`, one across it completes the corner of a box, and has to meet a
    stricter bound. Returns None if every image sticks out into space that was seen to be free.
    """
    normal, offset = _mirror_planes(shape, first)
    points = shape.points[:: max(1, len(shape.points) // MIRRORED)]
    beyond = (2 * (normal @ points.T - offset[:, None])).astype(np.float32)  # (M,N)
    T = shape.T_camera_support
    turned = (normal @ T[:3, :3].T).T.astype(np.float32)  # (3,M)
    image = transform_points(T, points).T.astype(np.float32)[:, None] - turned[..., None] * beyond  # (3,M,N)
    behind = image[2] - shape.horizon.depth_towards(np.moveaxis(image, 0, -1))
    tolerance = 0.003 + 0.5 * shape.spacing
    free, hidden = (
        np.count_nonzero(there, axis=1) / len(points) for there in (behind < -tolerance, behind > tolerance)
    )
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
    n = shape.normals[new]
    return _with_guess(shape, image[new], n - 2 * (n @ normal)[:, None] * normal)


def _with_guess(shape: Shape, points: Array, n: Array) -> Shape:
    return replace(
        shape,
        points=np.concatenate([shape.points, points]),
        normals=np.concatenate([shape.normals, n]),
        seen=np.concatenate([shape.seen, np.zeros(len(points), dtype=np.bool_)]),
    )


def _as_prism(coarse: Shape, dense: Shape) -> tuple[Shape, Shape]:
    """Give a low thing upright sides, since its edge is smeared over as much as its height."""
    kept, points, n = prism(dense.points, rectangle_angle(dense.points[:, :2]), dense.spacing)
    high = coarse.points[:, 2] > top_of(dense.points) / 2
    return _with_sides(_some(coarse, high), _some(dense, kept), points, n)


def _with_sides(coarse: Shape, dense: Shape, points: Array, n: Array) -> tuple[Shape, Shape]:
    """Add guessed points (N,3) of sides and their normals to both; the coarse shape gets some of them."""
    if len(points) == 0:
        return coarse, dense
    step = min(coarse.spacing, float(points[:, 2].max()) / SKIRT_ROWS)
    voxel, count = voxel_index(points * [1.0, 1.0, coarse.spacing / step], coarse.spacing)
    some = np.empty(count, dtype=np.intp)
    some[voxel] = np.arange(len(points))
    return _with_guess(coarse, points[some], n[some]), _with_guess(dense, points, n)


def _some(shape: Shape, chosen: Mask) -> Shape:
    return replace(shape, points=shape.points[chosen], normals=shape.normals[chosen], seen=shape.seen[chosen])


def _with_skirts(coarse: Shape, dense: Shape, angle: float) -> tuple[Shape, Shape]:
    """Let the outline hang straight down to the support on each side (angle rad, and square
    to it) of which nothing is known.

    For bent or round things that lie, no mirror plane is found, and a side that is seen edge-on has no image;
    but each side is at least as far out as the outline. A known side is only continued where it was cut off
    with the support. The normals of a skirt are level.
    """
    if not dense.has_floor:
        return coarse, dense
    skirts = [_skirt(dense, np.array([np.cos(a), np.sin(a), 0.0])) for a in angle + np.arange(4) * np.pi / 2]
    points, n = (np.concatenate(parts) for parts in zip(*skirts, strict=True))
    return _with_sides(coarse, dense, points, n)


def _skirt(shape: Shape, outward: Array) -> tuple[Array, Array]:
    """Return points (S,3) below the outermost seen ones in the level direction outward (3,), and normals."""
    nothing = np.zeros((0, 3)), np.zeros((0, 3))
    known = bool(np.count_nonzero(shape.normals @ outward > 0.7) > SIDE_KNOWN * len(shape.normals))
    side = np.array([-outward[1], outward[0], 0.0])
    hem = outermost(shape.points[shape.seen], outward, side, shape.spacing, lowest=known)
    if len(hem) < 3 or (known and hem[:, 2].min() > CUT_OFF_M):
        return nothing
    n = level_normals(hem, outward, side)
    highest = float(hem[:, 2].max())
    step = min(shape.spacing, highest / SKIRT_ROWS)  # even a flat thing has sides
    steps = np.arange(1, int(highest / step) + 1) * step
    hanging = np.repeat(hem[:, None], len(steps), axis=1)
    hanging[..., 2] -= steps
    new = hanging[..., 2] > 0.002
    cut_off = hem[:, None, 2] < CUT_OFF_M
    if known:
        new &= cut_off
    else:  # judged a little inside, since a wall seen edge-on is neither seen nor hidden
        hidden = shape.depth_behind_seen(hanging - 0.003 * outward) > 0.003 + 0.5 * shape.spacing
        new &= hidden | cut_off
    return hanging[new], np.repeat(n[:, None], len(steps), axis=1)[new]


def _mirror_planes(shape: Shape, first: Array | None) -> tuple[Array, Array]:
    """Propose vertical mirror planes: unit normals (M,3) that point away from the camera, offsets (M,) m."""
    middle = shape.points.mean(axis=0)
    view = np.arctan2(*(middle - shape.eye)[1::-1])
    if first is None:
        angle = np.concatenate([view + np.radians(ANGLES_DEG), _flush_angles(shape.points[:, :2], view)])
    else:
        across = np.arctan2(first[0], -first[1]) + np.radians((-15.0, 0.0, 15.0))
        angle = np.where(np.cos(across - view) < 0, across + np.pi, across)
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    along = np.sort(directions @ shape.points[:, :2].T, axis=1)
    few = len(shape.points) // 100
    low, high = along[:, few], along[:, -1 - few]
    # only the far side along the view is hidden: across the view the middle is known
    depth_share = np.abs(np.cos(angle - view))[:, None]
    offset = (low + high)[:, None] / 2 + np.array(SHIFTS) * depth_share * (high - low)[:, None]
    normal = np.concatenate([directions, np.zeros((len(angle), 1))], axis=1)
    return np.repeat(normal, len(SHIFTS), axis=0), offset.ravel()


def _flush_angles(points: Array, view: float) -> Array:
    """Return the directions (2,) of the sides of the rectangle around points (N,2), along the view."""
    angle = rectangle_angle(points) + np.array([0.0, np.pi / 2])
    return np.asarray(np.where(np.cos(angle - view) < 0, angle + np.pi, angle))
