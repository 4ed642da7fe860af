"""What most packages do instead of planning, on the same scenes: the baselines for planning."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array, CameraPoint, Grasp, ObjectSegment
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.transforms import make_transform, pose_from_matrix, transform_points, unit

DEPTH_M, TRAVEL_M, FLOOR_M = 0.025, 0.10, 0.004


def straight_down(lifted: CameraPoint, T_world_camera: Array, gripper: Gripper) -> Grasp:
    """Go straight down at the point that was clicked, closing across the view."""
    spot = transform_points(T_world_camera, lifted.position)
    return _from_above(spot, T_world_camera[:3, 0], gripper)


def pca_top_down(segment: ObjectSegment, T_world_camera: Array, gripper: Gripper) -> Grasp:
    """Go straight down at the middle of the object's points, closing along its shorter principal axis."""
    points = transform_points(T_world_camera, segment.cloud_m)
    middle = points.mean(axis=0)
    axes = np.linalg.eigh(np.cov(points[:, :2].T))[1]
    top = np.array([*middle[:2], np.quantile(points[:, 2], 0.98)])
    return _from_above(top, np.array([*axes[:, 0], 0.0]), gripper)


def _from_above(top: Array, closing: Array, gripper: Gripper) -> Grasp:
    """Reach DEPTH_M below a place (3,) m, or to just above the table."""
    z = np.array([0.0, 0.0, -1.0])
    y = unit(np.array([closing[0], closing[1], 0.0]))
    R = np.stack([np.cross(y, z), y, z], axis=1)
    tips = np.array([top[0], top[1], max(top[2] - DEPTH_M, FLOOR_M)])
    return Grasp(
        pose=pose_from_matrix(make_transform(R, tips)),
        pregrasp=pose_from_matrix(make_transform(R, tips - TRAVEL_M * z)),
        width=gripper.max_opening,
        quality=0.0,
        opening=gripper.max_opening,
    )
