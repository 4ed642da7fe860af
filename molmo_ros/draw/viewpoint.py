"""From where to look at a grasp: aside and above, never from behind, with both fingers in sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import Array, GraspTarget, RgbdFrame
from molmo_ros.draw.raster import Eye
from molmo_ros.transforms import pose_matrix, unit

FOV = np.radians(30.0)  # a long lens keeps parallel fingers parallel
ELEVATION = np.radians(22.0)
GUESSED_PITCH = np.radians(40.0)  # of a camera whose support plane is not known
AROUND_M = 0.11  # shown beside the object, so that its neighbours are in the picture


@dataclass(frozen=True)
class Stage:
    """What the eye must know, in the camera's optical frame: where to look, which way is up, how much to
    show (radius, m), how the gripper closes, and the support plane."""

    focus: Array
    up: Array
    radius: float
    closing: Array | None
    plane: Array | None


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
        return Stage(focus, up, spread + 1.6 * AROUND_M, None, plane)
    T = pose_matrix(best.grasp.pose)
    object_points = [best.grasp.pose.position]
    if best.segment is not None and len(best.segment.cloud_m):
        object_points += [best.segment.cloud_m.min(axis=0), best.segment.cloud_m.max(axis=0)]
    wrist = T[:3, 3] - hand_length * T[:3, 2]
    low, high = np.min([*object_points, wrist], axis=0), np.max([*object_points, wrist], axis=0)
    radius = 0.5 * float(np.linalg.norm(high - low)) + AROUND_M * 0.6
    return Stage((low + high) / 2, up, radius, T[:3, 1], plane)


def _plane(targets: Sequence[GraspTarget]) -> Array | None:
    """Return the support plane (4,) of the first target that knows one, or has a box that stands on it."""
    for target in targets:
        if target.segment is not None and target.segment.plane is not None:
            return target.segment.plane
        if target.box is not None:
            T = pose_matrix(target.box.pose)
            normal = T[:3, 2]
            return np.append(normal, -normal @ (T[:3, 3] - 0.5 * target.box.size[2] * normal))
    return None


def choose_eye(stage: Stage, size: tuple[int, int]) -> Eye:
    """Put the eye aside of the camera's line of sight, where the closing direction lies across the view."""
    level = -stage.focus - (-stage.focus @ stage.up) * stage.up  # from the focus back to the camera
    if np.linalg.norm(level) < 1e-3:
        level = np.array([1.0, 0, 0]) - stage.up[0] * stage.up
    level = unit(level)
    across = np.cross(stage.up, level)
    best, best_score = np.radians(38.0), -np.inf
    for azimuth in np.radians([-60, -52, -45, -38, -30, 30, 38, 45, 52, 60]):
        aside = np.cos(azimuth) * level + np.sin(azimuth) * across
        open_view = 0.0 if stage.closing is None else 1 - abs(float(aside @ stage.closing))
        score = open_view - 0.35 * abs(abs(azimuth) - np.radians(40.0))
        if score > best_score + 1e-9:
            best, best_score = float(azimuth), score
    aside = np.cos(best) * level + np.sin(best) * across
    direction = np.cos(ELEVATION) * aside + np.sin(ELEVATION) * stage.up
    distance = stage.radius / np.sin(FOV / 2)
    return Eye.look_at(stage.focus + distance * direction, stage.focus, stage.up, FOV, size)


def _middle(frame: RgbdFrame) -> Array:
    """Return the median point of the cloud, or half a metre ahead where there is no depth at all."""
    v, u = np.nonzero(np.isfinite(frame.depth) & (frame.depth > 0))
    if v.size == 0:
        return np.array([0.0, 0.0, 0.5])
    z = np.median(frame.depth[v, u])
    x = (np.median(u) - frame.K[0, 2]) / frame.K[0, 0] * z
    y = (np.median(v) - frame.K[1, 2]) / frame.K[1, 1] * z
    return np.array([x, y, z], dtype=np.float64)
