"""The topics on which answers are published."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from geometry_msgs.msg import PoseStamped
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from molmo_ros.camera.conversions import image_message
from molmo_ros.datatypes import GraspTarget, Grounding, RgbdFrame
from molmo_ros.errors import CancelledError
from molmo_ros.msg import GraspTargetArray
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.guard import limits_of
from molmo_ros.ros.markers import target_markers
from molmo_ros.ros.messages import cloud_message, grasp_pose_stamped, make_header

# The last answer is kept for late joiners (rviz, a client that starts after the query).
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Outputs:
    """Publishers of one node; they are silent while the node is not active."""

    def __init__(self, node: LifecycleNode, config: Callable[[], NodeConfig]) -> None:
        self._config, self._posed_at, self._context = config, float("-inf"), node.context
        make = node.create_lifecycle_publisher
        self._targets = make(GraspTargetArray, "~/targets", LATCHED)
        self._grasp_pose = make(PoseStamped, "~/grasp_pose", 1)
        self._points = make(PointCloud2, "~/object_points", LATCHED)
        self._markers = make(MarkerArray, "~/markers", LATCHED)
        self._annotated = make(Image, "~/annotated", LATCHED)

    def publish_targets(self, targets: GraspTargetArray) -> None:
        """The targets, and the pose of the best one that can be grasped."""
        best = next((target for target in targets.targets if target.status == target.OK), None)
        with self._until_shutdown():
            self._targets.publish(targets)
            # NaN: no grasp was asked for
            if best is not None and not math.isnan(best.width) and self._pose_is_due():
                self._grasp_pose.publish(grasp_pose_stamped(best))

    def _pose_is_due(self) -> bool:
        rate_hz, now = self._config().max_pose_rate_hz, time.monotonic()
        if rate_hz > 0 and now - self._posed_at < 1 / rate_hz:
            return False
        self._posed_at = now
        return True

    def publish_markers(self, targets: Sequence[GraspTarget], frame_id: str, stamp_ns: int) -> None:
        """Markers of targets that are being followed, if somebody subscribes."""
        with self._until_shutdown():
            if self._markers.get_subscription_count():
                self._markers.publish(self._all_markers(targets, frame_id, stamp_ns))

    def publish_points(self, targets: Sequence[GraspTarget], optical_frame: str, stamp_ns: int) -> None:
        """The cloud of targets that are being followed, if somebody subscribes."""
        with self._until_shutdown():
            if self._points.get_subscription_count():
                self._points.publish(cloud_message(targets, optical_frame, stamp_ns))

    def publish_views(self, frame: RgbdFrame, grounding: Grounding, frame_id: str) -> None:
        """The topics for people: cloud and markers, and the annotated image if somebody subscribes to it."""
        with self._until_shutdown():
            self._points.publish(cloud_message(grounding.targets, frame.frame_id, frame.stamp_ns))
            self._markers.publish(self._all_markers(grounding.targets, frame_id, frame.stamp_ns))
            if self._annotated.get_subscription_count():
                self._annotated.publish(_annotated(frame, grounding))

    @contextmanager
    def _until_shutdown(self) -> Iterator[None]:
        """Raises: CancelledError in place of what rclpy raises once Ctrl-C has ended its context."""
        try:
            yield
        except Exception:
            if self._context.ok():
                raise
            raise CancelledError("The node is shutting down.") from None

    def _all_markers(self, targets: Sequence[GraspTarget], frame_id: str, stamp_ns: int) -> MarkerArray:
        return target_markers(targets, frame_id, stamp_ns, limits_of(self._config()))


def _annotated(frame: RgbdFrame, grounding: Grounding) -> Image:
    from molmo_ros.draw import annotate

    shown = grounding.targets or grounding.answer.points
    picture = annotate(frame.rgb, shown, grounding.query)
    return image_message(picture, "rgb8", make_header(frame.frame_id, frame.stamp_ns))
