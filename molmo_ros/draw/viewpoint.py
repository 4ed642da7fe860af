"""From where to look at a grasp: from the side and above, never from behind, with both fingers in sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Array, GraspTarget, RgbdFrame
from molmo_ros.draw.raster import Eye
from molmo_ros.transforms import pose_matrix, unit

FOV = np.radians(30.0)  # a long lens keeps parallel fingers parallel
ELEVATION = np.radians(22.0)
GUESSED_PITCH = np.radians(40.0)  # of a camera whose support plane is not known
AROUND_M = 0.11  # shown beside the object, so that its neighbours are in the picture


@dataclass(frozen=True)
class Stage:
    """What the choice of the eye depends on, in the camera's optical frame.

    focus (3,) m; up (3,) unit; radius m around the focus that is shown; plane (4,) the support, or None;
    closing (3,) the closing direction of the gripper, seen (3,) the way the seen side of the object faces,
    object_m (N,3) its points: None or empty where there is no grasp.
    """

    focus: Array
    up: Array
    radius: float
    plane: Array | None
    closing: Array | None = None
    seen: Array | None = None
    object_m: Array = field(default_factory=lambda: np.zeros((0, 3)))


def set_stage(frame: RgbdFrame, targets: Sequence[GraspTarget], hand_length: float) -> Stage:
    """Choose what to show: the best target with the hand above it, else all targets, else the whole cloud."""
    plane = _plane(targets)
    up = (
        unit(plane[:3])
        if plane is not None
        else np.array([0, -np.cos(GUESSED_PITCH), -np.sin(GUESSED_PITCH)])
    )
    best = next((t for t in targets if t.grasp is not None), None)
    if best is None or best.grasp is None:
        shown = [t.position for t in targets if t.position is not None] or [_middle(frame)]
        focus = np.mean(shown, axis=0)
        spread = max(float(np.linalg.norm(p - focus)) for p in shown)
        return Stage(focus, up, spread + 1.6 * AROUND_M, plane)
    T = pose_matrix(best.grasp.pose)
    object_points = [best.grasp.pose.position]
    if best.segment is not None and len(best.segment.cloud_m):
        object_points += [best.segment.cloud_m.min(axis=0), best.segment.cloud_m.max(axis=0)]
    wrist = T[:3, 3] - hand_length * T[:3, 2]
    low, high = np.min([*object_points, wrist], axis=0), np.max([*object_points, wrist], axis=0)
    radius = 0.5 * float(np.linalg.norm(high - low)) + AROUND_M * 0.6
    seen, object_m = _seen_side(best, up)
    return Stage((low + high) / 2, up, radius, plane, T[:3, 1], seen, object_m)


def _seen_side(target: GraspTarget, up: Array) -> tuple[Array | None, Array]:
    """Return the level direction (3,) from the middle of an object's box to its seen points, and these."""
    if target.box is None or target.segment is None or not len(target.segment.cloud_m):
        return None, np.zeros((0, 3))
    cloud = target.segment.cloud_m
    away = cloud.mean(axis=0) - target.box.pose.position
    away = away - (away @ up) * up
    return (unit(away) if np.linalg.norm(away) > 1e-3 else None), cloud


def _plane(targets: Sequence[GraspTarget]) -> Array | None:
    """Return the support plane (4,) of the first target that has one, or whose box stands on one."""
    for target in targets:
        if target.segment is not None and target.segment.plane is not None:
            return target.segment.plane
        if target.box is not None:
            T = pose_matrix(target.box.pose)
            normal = T[:3, 2]
            return np.append(normal, -normal @ (T[:3, 3] - 0.5 * target.box.size[2] * normal))
    return None


def choose_eye(stage: Stage, others_m: Array, size: tuple[int, int]) -> Eye:
    """Put the eye where the fingers appear apart, the seen side of the object shows, and nothing hides it.

    Args: others_m (N,3), points of all that is not the object; size (width, height) px.
    """
    level = -stage.focus - (-stage.focus @ stage.up) * stage.up  # from the focus back to the camera
    if np.linalg.norm(level) < 1e-3:
        level = np.array([1.0, 0, 0]) - stage.up[0] * stage.up
    level = unit(level)
    across = np.cross(stage.up, level)
    views = []
    for azimuth in np.radians(range(-80, 81, 10)):
        aside = np.cos(azimuth) * level + np.sin(azimuth) * across
        eye = _eye_at(stage, aside, size)
        views.append((_score(stage, aside, azimuth) - 2.0 * _hidden(eye, stage.object_m, others_m), eye))
    return max(views, key=lambda view: view[0])[1]


def _eye_at(stage: Stage, aside: Array, size: tuple[int, int]) -> Eye:
    direction = np.cos(ELEVATION) * aside + np.sin(ELEVATION) * stage.up
    distance = stage.radius / np.sin(FOV / 2)
    return Eye.look_at(stage.focus + distance * direction, stage.focus, stage.up, FOV, size)


def _score(stage: Stage, aside: Array, azimuth: float) -> float:
    """Weigh a level direction (3,); without a grasp a view from 30 degrees beside the camera wins."""
    apart = 0.0 if stage.closing is None else 1 - abs(float(aside @ stage.closing))
    full = 0.0 if stage.seen is None else float(aside @ stage.seen)
    return float(apart + full - 0.5 * abs(abs(azimuth) - np.radians(30.0)) + 1e-6 * azimuth)


def _hidden(eye: Eye, object_m: Array, others_m: Array, cell_px: int = 16) -> float:
    """Return the share of the object's points that something hides from the eye, on a coarse z-buffer."""
    if not len(object_m) or not len(others_m):
        return 0.0
    columns, rows = eye.width // cell_px + 1, eye.height // cell_px + 1
    nearest = np.full(rows * columns, np.inf)
    cells, z = _cells(eye, others_m, columns, rows, cell_px)
    np.minimum.at(nearest, cells, z)
    cells, z = _cells(eye, object_m, columns, rows, cell_px)
    return float((nearest[cells] < z - 0.02).mean()) if cells.size else 1.0


def _cells(
    eye: Eye, points: Array, columns: int, rows: int, cell_px: int
) -> tuple[npt.NDArray[np.int64], Array]:
    """Return the z-buffer cells (M,) and depths (M,) of the points in view."""
    pixels, z = eye.project(points)
    cell = np.floor(pixels / cell_px).astype(np.int64)
    x, y = cell[:, 0], cell[:, 1]
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows) & (z > 0)
    return y[inside] * columns + x[inside], z[inside]


def _middle(frame: RgbdFrame) -> Array:
    """Return the median point of the cloud, or half a metre ahead where there is no depth at all."""
    v, u = np.nonzero(np.isfinite(frame.depth) & (frame.depth > 0))
    if v.size == 0:
        return np.array([0.0, 0.0, 0.5])
    z = np.median(frame.depth[v, u])
    x = (np.median(u) - frame.K[0, 2]) / frame.K[0, 0] * z
    y = (np.median(v) - frame.K[1, 2]) / frame.K[1, 1] * z
    return np.array([x, y, z], dtype=np.float64)
