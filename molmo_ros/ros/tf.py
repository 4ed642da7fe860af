"""Where the camera is in the target frame, at the stamp of an image. tf2_ros is imported only when needed."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from molmo_ros.datatypes import Array
from molmo_ros.errors import TransformError
from molmo_ros.transforms import make_transform, matrix_from_quaternion

CACHE_S = 10.0


class TransformLookup:
    """Listens to tf once a target frame is first needed, or at once if one is configured."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._buffer: Any = None
        self._listener: Any = None
        self._jumps: Any = None
        self._lock = threading.Lock()  # queries and tracks ask from several threads

    def start(self, target_frame: str) -> None:
        """Begin to listen. Raises: TransformError if tf2_ros is not installed."""
        with self._lock:
            if self._buffer is None:
                self._listen(target_frame)

    def _listen(self, target_frame: str) -> None:
        try:
            import tf2_ros
        except ImportError as error:
            raise TransformError(
                f"Targets in frame {target_frame!r} need tf2_ros, which is not installed ({error}); install "
                "ros-$ROS_DISTRO-tf2-ros-py, or leave target_frame empty for the camera's optical frame."
            ) from error
        buffer = tf2_ros.Buffer(cache_time=Duration(seconds=CACHE_S), node=self._node)
        self._listener = tf2_ros.TransformListener(buffer, self._node)
        # After a jump back (bag loop, restarted simulation) tf2 would refuse all new transforms as too old.
        back = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-0.5), on_clock_change=True)
        self._jumps = self._node.get_clock().create_jump_callback(
            back, post_callback=lambda jump: buffer.clear()
        )
        self._buffer = buffer

    def lookup(self, target_frame: str, camera_frame: str, stamp_ns: int, wait_s: float) -> Array | None:
        """T_target_camera (4,4) at a stamp; None if the two frames are the same or no target is asked for.

        Must run outside the executor's threads, which deliver the transforms meanwhile.
        Raises: TransformError with both frames, the stamp and what tf2 says.
        """
        if target_frame in ("", camera_frame):
            return None
        fresh = self._buffer is None
        self.start(target_frame)
        stamp = Time(nanoseconds=stamp_ns, clock_type=self._node.get_clock().clock_type)
        wait = Duration(seconds=max(wait_s, 1.0) if fresh else wait_s)
        try:
            found = self._buffer.lookup_transform(target_frame, camera_frame, stamp, wait)
        except Exception as error:  # tf2 has four kinds, which only exist where it is installed
            why = str(error).rstrip(" .")
            raise TransformError(
                f"No transform from {camera_frame!r} to {target_frame!r} at the image's stamp "
                f"{stamp_ns / 1e9:.3f} within {wait.nanoseconds / 1e9:.1f} s: {why}. Check that the robot "
                "publishes tf up to the camera, and that clocks (use_sim_time) agree."
            ) from error
        return _matrix(found.transform)


def _matrix(transform: Any) -> Array:
    """geometry_msgs/Transform -> (4,4)."""
    rotation, shift = transform.rotation, transform.translation
    xyzw = np.array([rotation.x, rotation.y, rotation.z, rotation.w])
    return make_transform(matrix_from_quaternion(xyzw), np.array([shift.x, shift.y, shift.z]))
