"""What the tests over real DDS share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

from molmo_ros.camera.conversions import camera_info_message, depth_message, image_message, stamp_to_ns
from molmo_ros.datatypes import RgbdFrame
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.messages import make_header
from molmo_ros.ros.node import SPARE_THREADS, MolmoNode

FRAME = "camera_color_optical_frame"
# A scene of the simulated camera in which the built-in model finds GOOD once, and in which ABSENT is not.
SEED, GOOD, ABSENT = 0, "the white bowl", "the blue banana"


class Spinning:
    """A node that is spun in a thread until the fixture ends."""

    def __init__(self, node: Node, executor: Any) -> None:
        self._executor = executor
        executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def stop(self) -> None:
        self._executor.shutdown(timeout_sec=5.0)
        self._thread.join(5.0)


@contextmanager
def running(settings: Mapping[str, Any], **options: Any) -> Iterator[MolmoNode]:
    """A node molmo with these settings, brought up by itself; ``options`` are those of a Node.

    The machine may be busy with other work: it is patient with frames. Cameras may be anywhere.
    """
    values = {"max_frame_age_s": 60.0, "max_target_age_s": 120.0, "workspace": "", **settings}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = MolmoNode(parameter_overrides=overrides, **options)
    spinning = Spinning(node, MultiThreadedExecutor(node.config.queue_size + SPARE_THREADS))
    node.start()
    yield node
    spinning.stop()
    node.destroy_node()


def found_in_time(client: GraspClient, seconds: float = 180.0) -> bool:
    """Whether GOOD is found; a camera that is another process may take its time to start."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if client.find(GOOD, timeout_s=30.0).success:
            return True
    return False


def heard_publisher(client: GraspClient, kind: type, topic: str) -> Any:
    """A publisher of the client's node that somebody listens to already."""
    publisher = client.node.create_publisher(kind, topic, 10)
    give_up = time.monotonic() + 60.0
    while publisher.get_subscription_count() == 0 and time.monotonic() < give_up:
        client.spin(0.05)
    return publisher


@contextmanager
def filming(camera: Camera, rate_hz: float = 15.0) -> Iterator[None]:
    """The camera publishes all the time."""
    end = threading.Event()

    def run() -> None:
        while not end.wait(1 / rate_hz):
            camera.publish(*camera.messages())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(2.0)


class Camera:
    """Publishes one frame at a time, good or bad, and sees to it that the node has it."""

    def __init__(
        self,
        frame: RgbdFrame,
        molmo: MolmoNode,
        namespace: str = "",
        name: str = "",
        frame_id: str = FRAME,
    ) -> None:
        """``name``: that of the camera in the node."""
        self.node = Node("test_camera", namespace=namespace)
        self.frame, self._molmo, self._name, self._frame_id = frame, molmo, name, frame_id
        make = self.node.create_publisher
        self._image = make(Image, "image", qos_profile_sensor_data)
        self._depth = make(Image, "depth", qos_profile_sensor_data)
        self._info = make(CameraInfo, "camera_info", qos_profile_sensor_data)

    def messages(self, age_s: float = 0.0) -> tuple[Image, Image, CameraInfo]:
        """A good triple, stamped now less age_s."""
        stamp_ns = self.node.get_clock().now().nanoseconds - int(age_s * 1e9)
        headers = [make_header(self._frame_id, stamp_ns) for _ in range(3)]
        height, width = self.frame.depth.shape
        return (
            image_message(self.frame.rgb, "rgb8", headers[0]),
            depth_message(self.frame.depth, headers[1]),
            camera_info_message(self.frame.K, width, height, headers[2]),
        )

    def show(
        self, change: Callable[[Image, Image, CameraInfo], None] | None = None, age_s: float = 0.0
    ) -> None:
        """Publish a triple, changed first if so wanted; returns when the node has paired it."""
        camera, give_up = self._molmo.cameras[self._name], time.monotonic() + 60.0
        while time.monotonic() < give_up:
            messages = self.messages(age_s)
            if change is not None:
                change(*messages)
            self.publish(*messages)
            if self._arrived(camera, stamp_to_ns(messages[0].header.stamp)):
                return
        raise AssertionError(f"no frame came through: {camera.problem(self._molmo.config)}")

    def publish(self, image: Image, depth: Image, info: CameraInfo) -> None:
        """Send three messages as they are."""
        self._image.publish(image)
        self._depth.publish(depth)
        self._info.publish(info)

    def forget(self) -> None:
        """Let the node have no frame at all.

        A last one is shown first: once it is there, none of those before it is still on its way.
        """
        self.show()
        self._molmo.cameras[self._name].pairer.clear()

    @staticmethod
    def _arrived(camera: Any, stamp_ns: int) -> bool:
        """Best effort may lose a message, so give up soon; ``show`` sends another."""
        pause = threading.Event()
        for _ in range(40):
            camera.collect()
            if camera.pairer.at(stamp_ns) is not None:
                return True
            pause.wait(0.005)
        return False
