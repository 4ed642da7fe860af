"""Targets as RViz markers: label, point with its uncertainty, object box, gripper, approach arrow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from molmo_ros.datatypes import GraspTarget, Pose
from molmo_ros.draw.shapes import GREEN, IDENTITY, RED, Kind, Shape, target_shapes
from molmo_ros.limits import Limits
from molmo_ros.ros.messages import make_header, pose_message


def target_markers(
    targets: Sequence[GraspTarget], frame_id: str, stamp_ns: int, limits: Limits | None = None
) -> MarkerArray:
    """All markers of an answer, preceded by one that deletes those of the last; and the boxes of the
    limits."""
    wipe = Marker(header=make_header(frame_id, stamp_ns), action=Marker.DELETEALL)
    markers = [wipe]
    for target in targets:
        header = make_header(target.frame_id, target.stamp_ns)
        markers += [_marker(header, shape) for shape in target_shapes(target)]
    if limits is not None:
        header = make_header(limits.frame or frame_id, stamp_ns)
        markers += [_marker(header, shape) for shape in _limit_shapes(limits)]
    for number, marker in enumerate(markers):
        marker.id = number
    return MarkerArray(markers=markers)


def _marker(header: Header, shape: Shape) -> Marker:
    marker = Marker(header=header, type=int(shape.kind), ns=shape.name, action=Marker.ADD, text=shape.text)
    marker.pose = pose_message(shape.pose)
    marker.scale = Vector3(x=float(shape.size[0]), y=float(shape.size[1]), z=float(shape.size[2]))
    red, green, blue, alpha = shape.color
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=alpha)
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in shape.points]
    return marker


def _limit_shapes(limits: Limits) -> list[Shape]:
    """The edges of the workspace, and the keep-out boxes."""
    shapes = []
    if limits.workspace is not None:
        low, high = np.array(limits.workspace.low), np.array(limits.workspace.high)
        corners = [np.where([i & 1, i & 2, i & 4], high, low) for i in range(8)]
        pairs = [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]
        points = tuple(
            (float(x), float(y), float(z)) for pair in pairs for x, y, z in (corners[i] for i in pair)
        )
        shapes.append(Shape(Kind.LINES, "workspace", GREEN, (0.004, 0.0, 0.0), points=points))
    for box in limits.keep_out:
        low, high = np.array(box.low), np.array(box.high)
        middle = Pose((low + high) / 2, IDENTITY.orientation)
        x, y, z = (float(side) for side in high - low)
        shapes.append(Shape(Kind.BOX, "keep_out", (*RED[:3], 0.3), (x, y, z), middle))
    return shapes
