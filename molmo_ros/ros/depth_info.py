"""The camera_info of depth that is not aligned to colour; subscribed to when a frame first needs it."""

from __future__ import annotations

import threading
import time

from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo

from molmo_ros.errors import CameraInfoError
from molmo_ros.ros.polled_subscription import subscribe, take

POLL_S = 0.01


class DepthInfo:
    """On ``depth_camera_info`` if that is remapped, else on the camera_info beside the depth image."""

    def __init__(self, node: Node, prefix: str, depth_topic: str) -> None:
        self._node = node
        self._lock = threading.Lock()  # queries and tracks ask from several threads
        self._subscription: Subscription | None = None
        self._newest: CameraInfo | None = None
        own = prefix + "depth_camera_info"
        remapped = str(node.resolve_topic_name(own))
        is_default = remapped == node.resolve_topic_name(own, only_expand=True)
        folder = depth_topic.removesuffix("/compressedDepth").rsplit("/", 1)[0]
        self.topic = f"{folder}/camera_info" if is_default else remapped

    def newest(self, wait_s: float) -> CameraInfo:
        """The newest message; waits for the first one. Raises: CameraInfoError if none comes."""
        give_up = time.monotonic() + wait_s
        while True:
            with self._lock:
                if self._subscription is None:
                    self._subscription = subscribe(self._node, self.topic, CameraInfo, 1)
                taken = take(self._subscription)
                if taken is not None:
                    self._newest = deserialize_message(taken.payload, CameraInfo)
                if self._newest is not None:
                    return self._newest
            if time.monotonic() >= give_up:
                raise CameraInfoError(
                    f"No camera_info of the depth camera comes on {self.topic}; remap 'depth_camera_info'."
                )
            time.sleep(POLL_S)
