"""Results as ROS 2 messages without ROS: the content as plain dicts, and a codec that turns them into CDR.

The content is what the node publishes: `molmo_ros.ros.messages` and `molmo_ros.ros.markers`, field by field.
Fields that are left out are zero, empty or False, as in rclpy.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molmo_ros.datatypes import AnyArray, Array, GraspTarget, Grounding, Pose, RgbdFrame
from molmo_ros.draw.shapes import CLOUD_DTYPE, IDENTITY, Shape, object_points, target_shapes
from molmo_ros.transforms import pose_from_matrix

Content = dict[str, Any]
ASSETS = Path(__file__).parents[1] / "assets" / "msg"
FLOAT32, UINT32 = 7, 6  # of sensor_msgs/PointField
ADD, DELETEALL = 0, 3  # of visualization_msgs/Marker
OK, ERROR = 0, 2  # of diagnostic_msgs/DiagnosticStatus
BIG_ENDIAN = sys.byteorder == "big"


class Codec:
    """Makes CDR of plain content by the message definitions of ROS 2 and of this package."""

    def __init__(self) -> None:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore

        self.store = get_typestore(Stores.ROS2_JAZZY)
        for path in sorted(ASSETS.glob("*.msg")):
            self.store.register(get_types_from_msg(path.read_text(), f"molmo_ros/msg/{path.stem}"))

    def encode(self, kind: str, content: Content) -> bytes:
        """The message of a type, such as "geometry_msgs/msg/Pose". Raises: KeyError for an unknown field."""
        return bytes(self.store.serialize_cdr(self._message(kind, content), kind))

    def _message(self, kind: str, content: Content) -> Any:
        fields = dict(self.store.fielddefs[kind][1])
        if unknown := set(content) - set(fields):
            raise KeyError(f"{kind} has no field {', '.join(sorted(unknown))}")
        return self.store.types[kind](
            **{name: self._value(node, content.get(name)) for name, node in fields.items()}
        )

    def _value(self, field: Any, value: Any) -> Any:
        """field: (node type, its type; of a list (field of an element, length))."""
        from rosbags.interfaces import Nodetype

        node, what = field
        if node == Nodetype.NAME:
            return self._message(what, value or {})
        if node == Nodetype.BASE:
            nothing: str | int = "" if what[0] == "string" else 0
            return nothing if value is None else value
        (inner, element), length = what
        if inner == Nodetype.BASE and element[0] != "string":
            return (
                np.zeros(length, element[0]) if value is None else np.asarray(value, element[0]).reshape(-1)
            )
        return [self._value((inner, element), one) for one in value or ()]


def header(frame_id: str, stamp_ns: int) -> Content:
    """std_msgs/Header."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return {"stamp": {"sec": sec, "nanosec": nanosec}, "frame_id": frame_id}


def image(pixels: AnyArray, encoding: str, head: Content) -> Content:
    """sensor_msgs/Image of (H,W) or (H,W,C) pixels."""
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    data = pixels.reshape(-1).view(np.uint8)
    return {"header": head, "height": height, "width": width, "encoding": encoding,
            "is_bigendian": int(BIG_ENDIAN), "step": pixels.strides[0], "data": data}  # fmt: skip


def camera_info(frame: RgbdFrame, head: Content) -> Content:
    """sensor_msgs/CameraInfo of a frame, whose image is rectified."""
    height, width = frame.depth.shape
    P = np.hstack([frame.K, np.zeros((3, 1))])
    return {"header": head, "height": height, "width": width, "distortion_model": "plumb_bob",
            "d": np.zeros(5), "k": frame.K, "r": np.eye(3), "p": P}  # fmt: skip


def transform(T_parent_child: Array, parent: str, child: str, stamp_ns: int) -> Content:
    """tf2_msgs/TFMessage of one transform."""
    pose = pose_message(pose_from_matrix(T_parent_child))
    content = {"translation": pose["position"], "rotation": pose["orientation"]}
    head = header(parent, stamp_ns)
    return {"transforms": [{"header": head, "child_frame_id": child, "transform": content}]}


def targets(found: Grounding, frame: RgbdFrame, frame_id: str) -> Content:
    """molmo_ros/GraspTargetArray; the age is 0, since nobody waited."""
    return {
        "header": header(frame_id, frame.stamp_ns),
        "query": found.query,
        "answer": found.answer.text,
        "targets": [target_message(target, frame.frame_id) for target in found.targets],
    }


def target_message(target: GraspTarget, optical_frame: str) -> Content:
    """molmo_ros/GraspTarget; what is not known is NaN."""
    box, grasp, point = target.box, target.grasp, target.point
    return {
        "header": header(target.frame_id, target.stamp_ns),
        "point": {
            "header": header(optical_frame, target.stamp_ns),
            "label": point.label,
            "instance": point.instance,
            "x": point.x,
            "y": point.y,
            "covariance": point.covariance,
            "confidence": point.confidence,
        },
        "status": int(target.status),
        "status_text": target.status_text,
        "position": _xyz(target.position),
        "position_covariance": np.full(9, np.nan) if target.covariance is None else target.covariance,
        "depth_distance": _number(target.depth_distance),
        "object_pose": pose_message(None if box is None else box.pose),
        "object_size": _xyz(None if box is None else box.size),
        "grasp_pose": pose_message(None if grasp is None else grasp.pose),
        "pregrasp_pose": pose_message(None if grasp is None else grasp.pregrasp),
        "width": _number(None if grasp is None else grasp.width),
        "opening": _number(None if grasp is None else grasp.opening),
        "quality": _number(None if grasp is None else grasp.quality),
        "age": 0.0,
        "grasp_age": math.nan if box is None else 0.0,
    }


def pose_message(pose: Pose | None) -> Content:
    """geometry_msgs/Pose; all NaN if there is none."""
    xyzw = [math.nan] * 4 if pose is None else [float(value) for value in pose.orientation]
    return {
        "position": _xyz(None if pose is None else pose.position),
        "orientation": dict(zip("xyzw", xyzw, strict=True)),
    }


def cloud(found: Sequence[GraspTarget], head: Content) -> Content:
    """sensor_msgs/PointCloud2: the points of the objects, with colour and instance number."""
    points = object_points(found)
    step = CLOUD_DTYPE.itemsize
    fields = [
        # rviz and pcl read the packed colour only from a float field
        {"name": name, "offset": 4 * i, "datatype": UINT32 if name == "instance" else FLOAT32, "count": 1}
        for i, name in enumerate(CLOUD_DTYPE.names or ())
    ]
    return {"header": head, "height": 1, "width": len(points), "fields": fields, "point_step": step,
            "row_step": step * len(points), "data": points.view(np.uint8), "is_dense": True}  # fmt: skip


def markers(found: Sequence[GraspTarget], head: Content) -> Content:
    """visualization_msgs/MarkerArray: those of the targets, preceded by one that deletes the previous
    ones."""
    wipe = {"header": head, "action": DELETEALL, "pose": pose_message(IDENTITY)}
    shown = [
        _marker(shape, header(target.frame_id, target.stamp_ns))
        for target in found
        for shape in target_shapes(target)
    ]
    return {"markers": [{**marker, "id": number} for number, marker in enumerate([wipe, *shown])]}


def _marker(shape: Shape, head: Content) -> Content:
    return {
        "header": head,
        "ns": shape.name,
        "type": int(shape.kind),
        "action": ADD,
        "pose": pose_message(shape.pose),
        "scale": _xyz(shape.size),
        "color": dict(zip("rgba", shape.color, strict=True)),
        "points": [_xyz(point) for point in shape.points],
        "text": shape.text,
    }


def diagnostics(problem: str, values: Mapping[str, str], stamp_ns: int) -> Content:
    """diagnostic_msgs/DiagnosticArray: the times of one query, or why a frame could not be used."""
    status = {
        "level": ERROR if problem else OK,
        "name": "molmo: latency",
        "message": problem or "answered",
        "hardware_id": "molmo_ros",
        "values": [{"key": key, "value": value} for key, value in values.items()],
    }
    return {"header": header("", stamp_ns), "status": [status]}


def _xyz(values: Sequence[float] | Array | None) -> Content:
    numbers = [math.nan] * 3 if values is None else [float(value) for value in values]
    return dict(zip("xyz", numbers, strict=True))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
