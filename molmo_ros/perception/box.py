"""The box around an object, standing on its support."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array, ObjectSegment, OrientedBox
from molmo_ros.perception.complete import Views, complete_shape
from molmo_ros.perception.outline import rectangle_angle
from molmo_ros.transforms import make_transform, pose_from_matrix, transform_box


def oriented_box(segment: ObjectSegment, up: Array | None = None, views: Views | None = None) -> OrientedBox:
    """Fit a box in the camera's optical frame: z away from the support, x along the longer horizontal side.

    The hidden half, where symmetry gives it, counts as part of the object (views, if it is known already).
    With a support the box stands on it; without one it ends with the points.
    """
    shape = (views or complete_shape(segment, up)).dense
    points = shape.points
    angle = rectangle_angle(points[:, :2])
    c, s = np.cos(angle), np.sin(angle)
    R = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    local = points @ R
    low, high = local.min(axis=0), local.max(axis=0)
    # voxel means lie half a voxel inside the outline
    low[:2] -= 0.25 * shape.spacing
    high[:2] += 0.25 * shape.spacing
    if shape.has_floor:
        low[2] = 0.0
    size = high - low
    if size[0] < size[1]:
        R = R @ np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        low, high = np.array([low[1], -high[0], low[2]]), np.array([high[1], -low[0], high[2]])
        size = high - low
    centre = R @ ((low + high) / 2)
    return transform_box(
        shape.T_camera_support, OrientedBox(pose=pose_from_matrix(make_transform(R, centre)), size=size)
    )
