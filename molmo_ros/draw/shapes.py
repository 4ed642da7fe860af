"""Targets as plain 3D shapes and points, which RViz, Foxglove and Rerun draw.

Label, uncertainty, box, gripper and approach of a target; the coloured points of its object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from molmo_ros.datatypes import Array, Grasp, GraspTarget, ImagePoint, OrientedBox, Pose, TargetStatus
from molmo_ros.transforms import matrix_from_quaternion, quaternion_from_matrix

SIGMAS = 2.0  # the ellipsoid holds about 74 % of a 3D normal distribution
MIN_AXIS_M = 0.004  # so that a point without uncertainty can be seen at all
FINGER_M = (0.012, 0.008, 0.045)  # x, y, z of a drawn finger
GREEN, ORANGE, BLUE = (0.2, 0.8, 0.3, 0.9), (1.0, 0.6, 0.1, 0.9), (0.2, 0.5, 1.0, 0.9)
WHITE, RED = (1.0, 1.0, 1.0, 1.0), (0.95, 0.25, 0.2, 0.6)
IDENTITY = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
CLOUD_DTYPE = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("instance", "<u4")])
Color = tuple[float, float, float, float]


class Kind(IntEnum):
    """What a shape is; the numbers are those of visualization_msgs/Marker."""

    ARROW = 0
    BOX = 1
    ELLIPSOID = 2
    LINES = 5
    TEXT = 9


@dataclass(frozen=True)
class Shape:
    """One shape, in the frame of its target.

    name: what it shows, such as "object" or "gripper"; pose: of its centre; color: red, green, blue, alpha,
    each 0..1. size (3,) m: full size of a box, diameters of an ellipsoid; of an arrow the diameters of shaft
    and head and the length of the head; of lines their width (x); of a text its height (z). points (N,3) m:
    start and end of an arrow, pairs of ends of lines.
    """

    kind: Kind
    name: str
    color: Color
    size: tuple[float, float, float]
    pose: Pose = IDENTITY
    points: tuple[tuple[float, float, float], ...] = ()
    text: str = ""


def target_shapes(target: GraspTarget) -> list[Shape]:
    """Everything that is known about a target, in its frame."""
    shapes = []
    if target.position is not None:
        shapes.append(_label(target, target.position))
        if target.covariance is not None and np.isfinite(target.covariance).all():
            shapes.append(_ellipsoid(target.position, target.covariance))
    if target.box is not None:
        shapes.append(_box(target.box, good=target.status is TargetStatus.OK))
    if target.grasp is not None:
        shapes += [*_gripper(target.grasp), _approach(target.grasp)]
    return shapes


def point_text(point: ImagePoint) -> str:
    """Label and, if it is known, confidence of a point."""
    return point.label if math.isnan(point.confidence) else f"{point.label} {point.confidence:.0%}"


def _label(target: GraspTarget, position: Array) -> Shape:
    state = "" if target.status is TargetStatus.OK else f" ({target.status.name})"
    text = f"{point_text(target.point)}{state}"
    pose = Pose(position, IDENTITY.orientation)
    return Shape(Kind.TEXT, "label", WHITE, (0.0, 0.0, 0.025), pose, text=text)


def _ellipsoid(position: Array, covariance: Array) -> Shape:
    """The SIGMAS ellipsoid: principal axes and lengths from the eigenvectors of the covariance."""
    variances, axes = np.linalg.eigh(covariance)
    if np.linalg.det(axes) < 0:
        axes[:, 0] *= -1
    diameters = np.maximum(2 * SIGMAS * np.sqrt(np.maximum(variances, 0)), MIN_AXIS_M)
    return Shape(
        Kind.ELLIPSOID, "uncertainty", RED, _triple(diameters), Pose(position, quaternion_from_matrix(axes))
    )


def _box(box: OrientedBox, good: bool) -> Shape:
    red, green, blue, _ = GREEN if good else ORANGE
    return Shape(Kind.BOX, "object", (red, green, blue, 0.25), _triple(np.maximum(box.size, 0.001)), box.pose)


def _gripper(grasp: Grasp) -> list[Shape]:
    """Two fingers and the palm; the fingertips are at the origin of the grasp, +-width/2 along y."""
    thick_x, thick_y, length = FINGER_M
    half = grasp.width / 2 + thick_y / 2
    parts = [
        ((0, half, -length / 2), FINGER_M),
        ((0, -half, -length / 2), FINGER_M),
        ((0, 0, -length - thick_y / 2), (thick_x, 2 * half + thick_y, thick_y)),
    ]
    return [
        Shape(Kind.BOX, "gripper", BLUE, size, _shifted(grasp.pose, np.array(offset)))
        for offset, size in parts
    ]


def _approach(grasp: Grasp) -> Shape:
    """Arrow from the pregrasp to where the palm will be."""
    end = _shifted(grasp.pose, np.array([0, 0, -FINGER_M[2]])).position
    points = (_triple(grasp.pregrasp.position), _triple(end))
    return Shape(Kind.ARROW, "approach", ORANGE, (0.006, 0.014, 0.02), points=points)


def _shifted(pose: Pose, offset: Array) -> Pose:
    """A pose moved by an offset (3,) m in its own axes."""
    return Pose(pose.position + matrix_from_quaternion(pose.orientation) @ offset, pose.orientation)


def _triple(values: Sequence[float] | Array) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def object_points(targets: Sequence[GraspTarget]) -> Any:
    """All points of the objects, (N,) of CLOUD_DTYPE: m in the optical frame, 0xRRGGBB, instance."""
    parts = [_points_of(target) for target in targets if target.segment is not None]
    return np.concatenate(parts) if parts else np.zeros(0, CLOUD_DTYPE)


def _points_of(target: GraspTarget) -> Any:
    assert target.segment is not None
    colors = target.segment.colors.astype(np.uint32)
    part = np.zeros(len(colors), CLOUD_DTYPE)
    part["x"], part["y"], part["z"] = target.segment.cloud_m.T
    part["rgb"] = colors[:, 0] << 16 | colors[:, 1] << 8 | colors[:, 2]
    part["instance"] = target.point.instance
    return part
