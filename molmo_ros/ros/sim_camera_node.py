"""The node ``sim_camera``: a simulated RGB-D camera on real topics. Set ``seed`` to see another scene."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image

from molmo_ros.camera.conversions import camera_info_message, depth_message, image_message
from molmo_ros.datatypes import RgbdFrame
from molmo_ros.ros.config import SimCameraConfig
from molmo_ros.ros.entry import run_node
from molmo_ros.ros.interrupt import ending
from molmo_ros.ros.params import NODE_OPTIONS, declare

QOS = QoSProfile(depth=5)  # reliable, as most drivers: serves subscribers of either kind
# Noisy frames that are rendered for a scene and shown in turn: rendering at full rate would take a whole
# core. More than a model caches, even if every third is asked about: a real camera never repeats an image.
FRAMES = 11


class SimCameraNode(Node):  # type: ignore[misc]
    """Publishes image (rgb8), depth (16UC1, aligned) and camera_info at a rate, with one stamp each time."""

    def __init__(self, **options: Any) -> None:
        super().__init__("sim_camera", **NODE_OPTIONS, **options)
        self._config = declare(self, SimCameraConfig, self._set_config)
        self._shown = self._config
        self._messages = self._render()  # slow, so done before there is a topic that others could wait for
        self._count = 0
        self._image = self.create_publisher(Image, "image", QOS)
        self._depth = self.create_publisher(Image, "depth", QOS)
        self._info = self.create_publisher(CameraInfo, "camera_info", QOS)
        self.create_timer(1.0 / self._config.rate, self._show)

    def _set_config(self, config: SimCameraConfig) -> None:
        self._config = config

    def _render(self) -> list[tuple[Image, Image, CameraInfo]]:
        """The messages of a scene; FRAMES of them, since the noise differs from frame to frame."""
        from molmo_ros.sim import NoiseModel, SimCamera

        config = self._config
        camera = SimCamera(config.seed, config.width, config.height, NoiseModel(scale=config.noise))
        names = ", ".join(thing.name for thing in camera.scene.objects)
        self.get_logger().info(f"scene {config.seed}: {names}; ask for one of these")
        made = []
        for _ in range(FRAMES):
            if not self.context.ok():  # each takes a while; Ctrl-C must not wait for all
                raise ExternalShutdownException
            made.append(_messages(camera.frame(), config.frame_id))
        return made

    def _show(self) -> None:
        if self._shown != self._config:
            self._messages = self._render()
            self._shown = self._config
        stamp = self.get_clock().now().to_msg()
        messages = self._messages[self._count % len(self._messages)]
        self._count += 1
        for publisher, message in zip((self._image, self._depth, self._info), messages, strict=True):
            message.header.stamp = stamp
            publisher.publish(message)


def _messages(frame: RgbdFrame, frame_id: str) -> tuple[Image, Image, CameraInfo]:
    from molmo_ros.ros.messages import make_header

    height, width = frame.depth.shape
    header = make_header(frame_id, 0)
    return (
        image_message(frame.rgb, "rgb8", header),
        depth_message(frame.depth, header),
        camera_info_message(frame.K, width, height, header),
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; exit status 2 if a parameter is wrong."""
    import open3d  # noqa: F401  (takes a while, in which Ctrl-C still ends the process at once)

    return run_node("sim_camera", SimCameraNode, spin, args)


def spin(node: SimCameraNode) -> None:
    """Spin until shutdown."""
    with suppress(ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    raise SystemExit(ending(main()))
