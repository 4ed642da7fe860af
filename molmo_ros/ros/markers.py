"""Targets as RViz markers: label, point with its uncertainty, object box, gripper, approach arrow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from molmo_ros.datatypes import Array, Grasp, GraspTarget, OrientedBox, Pose, TargetStatus
from molmo_ros.limits import Limits
from molmo_ros.ros.messages import make_header, pose_message
from molmo_ros.transforms import matrix_from_quaternion, quaternion_from_matrix

SIGMAS = 2.0  # the ellipsoid holds about 74 % of a 3D normal distribution
MIN_AXIS_M = 0.004  # so that a certain point can be seen at all
FINGER_M = (0.012, 0.008, 0.045)  # x, y, z of a drawn finger
GREEN, ORANGE, BLUE = (0.2, 0.8, 0.3, 0.9), (1.0, 0.6, 0.1, 0.9), (0.2, 0.5, 1.0, 0.9)
WHITE, RED = (1.0, 1.0, 1.0, 1.0), (0.95, 0.25, 0.2, 0.6)
IDENTITY = np.array([0.0, 0.0, 0.0, 1.0])


def target_markers(
    targets: Sequence[GraspTarget], frame_id: str, stamp_ns: int, limits: Limits | None = None
) -> MarkerArray:
    """All markers of an answer, led by one that deletes those of the last; and the boxes of the limits."""
    wipe = Marker(header=make_header(frame_id, stamp_ns), action=Marker.DELETEALL)
    markers = [wipe]
    for target in targets:
        markers += _of_target(target)
    if limits is not None:
        markers += _of_limits(make_header(limits.frame or frame_id, stamp_ns), limits)
    for number, marker in enumerate(markers):
        marker.id = number
    return MarkerArray(markers=markers)


def _of_limits(header: Header, limits: Limits) -> list[Marker]:
    """The edges of the workspace, and the boxes that are kept out of."""
    markers = []
    if limits.workspace is not None:
        low, high = np.array(limits.workspace.low), np.array(limits.workspace.high)
        edges = _marker(
            header, Marker.LINE_LIST, "workspace", Pose(np.zeros(3), IDENTITY), (0.004, 0, 0), GREEN
        )
        corners = [np.where([i & 1, i & 2, i & 4], high, low) for i in range(8)]
        pairs = [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]
        edges.points = [
            Point(x=float(x), y=float(y), z=float(z))
            for pair in pairs
            for x, y, z in (corners[i] for i in pair)
        ]
        markers.append(edges)
    for box in limits.keep_out:
        low, high = np.array(box.low), np.array(box.high)
        middle = Pose((low + high) / 2, IDENTITY)
        markers.append(_marker(header, Marker.CUBE, "keep_out", middle, list(high - low), (*RED[:3], 0.3)))
    return markers


def _of_target(target: GraspTarget) -> list[Marker]:
    header = make_header(target.frame_id, target.stamp_ns)
    markers = []
    if target.position is not None:
        markers.append(_label(header, target, target.position))
        if target.covariance is not None and np.isfinite(target.covariance).all():
            markers.append(_ellipsoid(header, target.position, target.covariance))
    if target.box is not None:
        markers.append(_box(header, target.box, good=target.status is TargetStatus.OK))
    if target.grasp is not None:
        markers += [*_gripper(header, target.grasp), _approach(header, target.grasp)]
    return markers


def _marker(
    header: Header, kind: int, namespace: str, pose: Pose, scale: Sequence[float], color: Sequence[float]
) -> Marker:
    marker = Marker(header=header, type=kind, ns=namespace, action=Marker.ADD, pose=pose_message(pose))
    marker.scale = Vector3(x=float(scale[0]), y=float(scale[1]), z=float(scale[2]))
    marker.color = ColorRGBA(r=color[0], g=color[1], b=color[2], a=color[3])
    return marker


def _label(header: Header, target: GraspTarget, position: Array) -> Marker:
    marker = _marker(header, Marker.TEXT_VIEW_FACING, "label", Pose(position, IDENTITY), (0, 0, 0.025), WHITE)
    state = "" if target.status is TargetStatus.OK else f" ({target.status.name})"
    sure = "" if math.isnan(target.point.confidence) else f" {target.point.confidence:.0%}"
    marker.text = f"{target.point.label}{sure}{state}"
    return marker


def _ellipsoid(header: Header, position: Array, covariance: Array) -> Marker:
    """The SIGMAS ellipsoid: principal axes and lengths from the eigenvectors of the covariance."""
    variances, axes = np.linalg.eigh(covariance)
    if np.linalg.det(axes) < 0:
        axes[:, 0] *= -1
    diameters = np.maximum(2 * SIGMAS * np.sqrt(np.maximum(variances, 0)), MIN_AXIS_M)
    pose = Pose(position, quaternion_from_matrix(axes))
    return _marker(header, Marker.SPHERE, "uncertainty", pose, [float(value) for value in diameters], RED)


def _box(header: Header, box: OrientedBox, good: bool) -> Marker:
    red, green, blue, _ = GREEN if good else ORANGE
    size = [max(float(side), 0.001) for side in box.size]
    return _marker(header, Marker.CUBE, "object", box.pose, size, (red, green, blue, 0.25))


def _gripper(header: Header, grasp: Grasp) -> list[Marker]:
    """Two fingers and the palm; the fingertips are at the origin of the grasp, +-width/2 along y."""
    thick_x, thick_y, length = FINGER_M
    half = grasp.width / 2 + thick_y / 2
    parts = [
        ((0, half, -length / 2), FINGER_M),
        ((0, -half, -length / 2), FINGER_M),
        ((0, 0, -length - thick_y / 2), (thick_x, 2 * half + thick_y, thick_y)),
    ]
    return [
        _marker(header, Marker.CUBE, "gripper", _shifted(grasp.pose, np.array(offset)), size, BLUE)
        for offset, size in parts
    ]


def _approach(header: Header, grasp: Grasp) -> Marker:
    """Arrow from the pregrasp to where the palm will be."""
    end = _shifted(grasp.pose, np.array([0, 0, -FINGER_M[2]])).position
    origin = Pose(np.zeros(3), IDENTITY)
    marker = _marker(header, Marker.ARROW, "approach", origin, (0.006, 0.014, 0.02), ORANGE)
    marker.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in (grasp.pregrasp.position, end)]
    return marker


def _shifted(pose: Pose, offset: Array) -> Pose:
    """A pose moved by an offset (3,) m in its own axes."""
    return Pose(pose.position + matrix_from_quaternion(pose.orientation) @ offset, pose.orientation)
