"""Results as messages: points, targets, poses, clouds; and targets back again, for clients in Python.

What is unknown is NaN in a message and None in a dataclass.
"""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, PoseStamped, Quaternion, Vector3
from geometry_msgs.msg import Pose as PoseMessage
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from molmo_ros.camera.conversions import stamp_to_ns
from molmo_ros.datatypes import (
    Answer,
    Array,
    Grasp,
    GraspTarget,
    Grounding,
    Image,
    ImagePoint,
    OrientedBox,
    Pose,
    TargetStatus,
)
from molmo_ros.draw.shapes import CLOUD_DTYPE, object_points
from molmo_ros.msg import GraspTarget as GraspTargetMessage
from molmo_ros.msg import GraspTargetArray, GroundedPoint

NAN = math.nan


def make_header(frame_id: str, stamp_ns: int) -> Header:
    """std_msgs/Header from a frame and nanoseconds."""
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return header


def pose_message(pose: Pose | None) -> PoseMessage:
    """geometry_msgs/Pose; all NaN if there is none."""
    position = [NAN] * 3 if pose is None else [float(value) for value in pose.position]
    xyzw = [NAN] * 4 if pose is None else [float(value) for value in pose.orientation]
    return PoseMessage(
        position=Point(x=position[0], y=position[1], z=position[2]),
        orientation=Quaternion(x=xyzw[0], y=xyzw[1], z=xyzw[2], w=xyzw[3]),
    )


def point_message(point: ImagePoint, frame_id: str, stamp_ns: int) -> GroundedPoint:
    """GroundedPoint in the optical frame of the camera."""
    return GroundedPoint(
        header=make_header(frame_id, stamp_ns),
        label=point.label,
        instance=point.instance,
        x=float(point.x),
        y=float(point.y),
        covariance=_numbers(point.covariance, 4),
        confidence=float(point.confidence),
    )


def target_message(
    target: GraspTarget, optical_frame: str, age_s: float, grasp_age_s: float | None = None
) -> GraspTargetMessage:
    """msg/GraspTarget; grasp_age_s: age of the image in which the object was found, if a different one."""
    box, grasp = target.box, target.grasp
    position = _numbers(target.position, 3)
    size = _numbers(None if box is None else box.size, 3)
    return GraspTargetMessage(
        header=make_header(target.frame_id, target.stamp_ns),
        point=point_message(target.point, optical_frame, target.stamp_ns),
        status=int(target.status),
        status_text=target.status_text,
        position=Point(x=position[0], y=position[1], z=position[2]),
        position_covariance=_numbers(target.covariance, 9),
        depth_distance=NAN if target.depth_distance is None else float(target.depth_distance),
        object_pose=pose_message(None if box is None else box.pose),
        object_size=Vector3(x=size[0], y=size[1], z=size[2]),
        grasp_pose=pose_message(None if grasp is None else grasp.pose),
        pregrasp_pose=pose_message(None if grasp is None else grasp.pregrasp),
        width=NAN if grasp is None else float(grasp.width),
        opening=NAN if grasp is None else float(grasp.opening),
        quality=NAN if grasp is None else float(grasp.quality),
        age=age_s,
        grasp_age=NAN if box is None else age_s if grasp_age_s is None else grasp_age_s,
    )


def target_array(
    grounding: Grounding, frame_id: str, optical_frame: str, stamp_ns: int, age_s: float
) -> GraspTargetArray:
    """msg/GraspTargetArray of a whole answer."""
    return GraspTargetArray(
        header=make_header(frame_id, stamp_ns),
        query=grounding.query,
        answer=grounding.answer.text,
        targets=[target_message(target, optical_frame, age_s) for target in grounding.targets],
    )


def grasp_pose_stamped(target: GraspTargetMessage) -> PoseStamped:
    """The grasp pose of a target, for anything that takes a pose."""
    return PoseStamped(header=target.header, pose=target.grasp_pose)


def cloud_message(targets: Sequence[GraspTarget], frame_id: str, stamp_ns: int) -> PointCloud2:
    """The points of the objects in the camera's optical frame.

    Fields: x, y, z (float32, m), rgb (packed, as rviz wants it), instance (that of the point of the target).
    """
    points = object_points(targets)
    fields = [_cloud_field(name) for name in CLOUD_DTYPE.names or ()]
    size = CLOUD_DTYPE.itemsize
    msg = PointCloud2(header=make_header(frame_id, stamp_ns), height=1, width=len(points), fields=fields)
    msg.point_step, msg.row_step, msg.is_dense = size, size * len(points), True
    msg.data = array.array("B", points.tobytes())
    return msg


def _cloud_field(name: str) -> PointField:
    # rviz and pcl read the packed colour only from a float field
    kind = PointField.UINT32 if name == "instance" else PointField.FLOAT32
    assert CLOUD_DTYPE.fields is not None
    return PointField(name=name, offset=CLOUD_DTYPE.fields[name][1], datatype=kind, count=1)


def clouds_by_instance(msg: PointCloud2) -> dict[int, tuple[Array, Image]]:
    """What ``cloud_message`` wrote: instance -> points (N,3) m and colours (N,3) uint8."""
    points = np.frombuffer(msg.data, CLOUD_DTYPE)
    xyz = np.stack([points["x"], points["y"], points["z"]], axis=1).astype(np.float64)
    colors = np.stack([points["rgb"] >> shift & 255 for shift in (16, 8, 0)], axis=1).astype(np.uint8)
    instances = points["instance"]
    return {int(i): (xyz[instances == i], colors[instances == i]) for i in np.unique(instances)}


def pose_from_message(msg: PoseMessage) -> Pose | None:
    """Pose, or None if the message holds NaN."""
    position = np.array([msg.position.x, msg.position.y, msg.position.z])
    xyzw = np.array([msg.orientation.x, msg.orientation.y, msg.orientation.z, msg.orientation.w])
    return Pose(position, xyzw) if np.isfinite(position).all() and np.isfinite(xyzw).all() else None


def point_from_message(msg: GroundedPoint) -> ImagePoint:
    """ImagePoint of a GroundedPoint."""
    covariance = np.asarray(msg.covariance).reshape(2, 2)
    return ImagePoint(msg.x, msg.y, msg.label, msg.instance, msg.confidence, covariance)


def target_from_message(msg: GraspTargetMessage) -> GraspTarget:
    """GraspTarget from a message; its segment is not in the message and therefore None."""
    position = np.array([msg.position.x, msg.position.y, msg.position.z])
    covariance = np.asarray(msg.position_covariance).reshape(3, 3)
    object_pose = pose_from_message(msg.object_pose)
    size = np.array([msg.object_size.x, msg.object_size.y, msg.object_size.z])
    pose, pregrasp = pose_from_message(msg.grasp_pose), pose_from_message(msg.pregrasp_pose)
    return GraspTarget(
        point=point_from_message(msg.point),
        status=TargetStatus(msg.status),
        status_text=msg.status_text,
        frame_id=msg.header.frame_id,
        stamp_ns=stamp_to_ns(msg.header.stamp),
        position=_known(position),
        covariance=_known(covariance),
        depth_distance=None if math.isnan(msg.depth_distance) else float(msg.depth_distance),
        box=None if object_pose is None else OrientedBox(object_pose, size),
        grasp=None
        if pose is None or pregrasp is None
        else Grasp(pose, pregrasp, msg.width, msg.quality, msg.opening),
    )


def grounding_from_message(query: str, answer: str, targets: Sequence[GraspTargetMessage]) -> Grounding:
    """Grounding from what a client received."""
    values = tuple(target_from_message(target) for target in targets)
    return Grounding(query, Answer(answer, tuple(target.point for target in values)), values)


def _known(value: Array) -> Array | None:
    return value if np.isfinite(value).all() else None


def _numbers(values: Any, count: int) -> list[float]:
    return [NAN] * count if values is None else [float(value) for value in np.asarray(values).reshape(-1)]
