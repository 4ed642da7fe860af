"""What the services and the tracks share of the node."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.qos import QoSProfile

from molmo_ros.errors import FrameError, MolmoRosError
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.diagnostics import LatencyLog
from molmo_ros.ros.guard import Guard
from molmo_ros.ros.model_host import ModelHost
from molmo_ros.ros.outputs import Outputs
from molmo_ros.ros.saving import Saving
from molmo_ros.ros.tf import TransformLookup
from molmo_ros.ros.worker import Worker

# DDS keeps this many requests until they are taken, and silently drops the oldest. rclpy's own depth of 10 is
# less than what a burst of clients sends; what is taken is answered or refused.
REQUEST_QOS = QoSProfile(depth=1000)


@dataclass(frozen=True)
class NodeContext:
    """The parts of the node. ``config`` is a function, since parameters may change at run time."""

    node: Node
    config: Callable[[], NodeConfig]
    cameras: Mapping[str, CameraInput]
    model: ModelHost
    worker: Worker
    transforms: TransformLookup
    outputs: Outputs
    guard: Guard
    latency: LatencyLog
    saving: Saving

    def camera(self, name: str) -> CameraInput:
        """The camera of a request; '' is the first one. Raises: FrameError naming those that exist."""
        if not name:
            return next(iter(self.cameras.values()))
        if name not in self.cameras:
            named = [repr(camera) for camera in self.cameras if camera]
            known = f"this node has {', '.join(named)}" if named else "leave it empty, there is only one"
            raise FrameError(f"There is no camera {name[:64]!r}; {known}.")
        return self.cameras[name]

    def describe_error(self, error: Exception, what: str) -> tuple[str, str]:
        """(code, message) for whoever asked; an error that is not ours is logged with its stack trace."""
        if isinstance(error, MolmoRosError):
            return error.code, str(error)
        self.node.get_logger().error(f"{what} failed: " + "".join(traceback.format_exception(error)))
        return "ERROR", f"Internal error: {type(error).__name__}: {error}. The node's log has more."
