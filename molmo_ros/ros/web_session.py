"""While a page is open: a node that listens to the node ``molmo`` and its camera, and informs the hub."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, PointCloud2

from molmo_ros.camera.conversions import decode_color, stamp_to_ns
from molmo_ros.errors import MolmoRosError, ParameterError
from molmo_ros.msg import GraspTargetArray
from molmo_ros.perception.rectify import undistort
from molmo_ros.ros.messages import clouds_by_instance, target_from_message
from molmo_ros.ros.outputs import LATCHED
from molmo_ros.ros.web_camera import WebCamera
from molmo_ros.ros.web_requests import Requests
from molmo_ros.ros.web_state import NodeState
from molmo_ros.web.hub import Hub
from molmo_ros.web.targets import answer_message, outcome
from molmo_ros.web.wire import cloud_message, image_message

PERIOD_S = 1 / 15  # of checking for news
FOLLOWING_S = 1.0  # answers that arrive closer together than this belong to a track
STATE_S = 0.5
LATCHED_S = 2.0  # an answer that arrives this early was given before, and may be in the history already


class Session:
    """Subscribes, and informs the hub from its own thread; callbacks only store messages."""

    def __init__(self, name: str, hub: Hub) -> None:
        self._name, self._hub = name, hub
        self.node = Node(f"molmo_web_{os.getpid()}", start_parameter_services=False)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._heard: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._began, self._answer_at = time.monotonic(), float("-inf")
        self._following = False
        self._answer_frame, self._answer_ns = "", 0
        self._cameras: dict[str, dict[str, str]] = {}
        self.camera_name = ""  # of the camera that is shown and asked about
        self._state = NodeState(self.node, name)
        self._camera = WebCamera(hub, self._executor)
        self.requests = Requests(self.node, name, hub)
        self._subscribe()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"web {work.__name__.strip('_')}")
            for work in (self._spin, self._tell_all)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Leave ROS."""
        self.requests.close()
        self._stop.set()
        self._threads[1].join()
        self._executor.shutdown(timeout_sec=2.0)
        self._threads[0].join()
        self._camera.close()
        self.node.destroy_node()

    def show(self, camera: str) -> None:
        """Show this camera, and ask about it. Raises: ParameterError if the node has none of this name."""
        if camera not in self._cameras:
            known = ", ".join(name or "(without a name)" for name in self._cameras) or "none yet"
            raise ParameterError(f"{self._name} has no camera {camera[:64]!r}; it has {known}.")
        self.camera_name = camera
        self._tell_cameras()

    def _subscribe(self) -> None:
        for kind, topic, qos in (
            (DiagnosticArray, "/diagnostics", 10),
            (GraspTargetArray, f"{self._name}/targets", LATCHED),
            (Image, f"{self._name}/annotated", LATCHED),
            (PointCloud2, f"{self._name}/object_points", LATCHED),
        ):
            key = topic.rsplit("/", 1)[-1]
            self.node.create_subscription(kind, topic, lambda msg, key=key: self._hear(key, msg), qos)

    def _hear(self, key: str, message: Any) -> None:
        if key == "diagnostics":  # several nodes share this topic
            self._state.hear(message)
            return
        with self._lock:
            self._heard[key] = message

    def _take(self, key: str) -> Any:
        with self._lock:
            return self._heard.pop(key, None)

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _tell_all(self) -> None:
        """Until the session ends; a failure is logged, and the loop goes on."""
        state_at = 0.0
        while not self._stop.wait(PERIOD_S):
            try:
                self._tell_answer()
                self._tell_annotated()
                self._tell_object()
                self._camera.tell(self._answer_frame, self._answer_ns if self._following else 0)
                if time.monotonic() - state_at > STATE_S:
                    state_at = time.monotonic()
                    self._tell_state()
            except Exception as error:
                self.node.get_logger().error(
                    f"web view: {type(error).__name__}: {error}", throttle_duration_sec=5.0
                )

    def _tell_answer(self) -> None:
        message = self._take("targets")
        if message is None:
            self._following = self._following and time.monotonic() - self._answer_at < FOLLOWING_S
            return
        self._following = time.monotonic() - self._answer_at < FOLLOWING_S
        self._answer_at = time.monotonic()
        self._answer_frame, self._answer_ns = message.header.frame_id, stamp_to_ns(message.header.stamp)
        targets = [target_from_message(target) for target in message.targets]
        content = answer_message(message.query, message.answer, targets, self._answer_frame, self._answer_ns)
        optical = message.targets[0].point.header.frame_id if message.targets else ""
        self._hub.tell(
            "answer",
            {
                **content,
                "pixels": self._pixels(targets),
                "optical": optical,
                "following": self._following,
            },
        )
        latched = self._answer_at - self._began < LATCHED_S and self._hub.noted
        if not self._following and not latched and not self.requests.is_mine(message.query):
            self._hub.note(message.query, "topic", outcome(targets), True)

    def _pixels(self, targets: list[Any]) -> list[list[float]]:
        """Where the points are in the live image, which is rectified; the messages have raw pixels."""
        raw = np.array([[target.point.x, target.point.y] for target in targets]).reshape(-1, 2)
        lens = self._camera.lens
        shown = raw if lens is None or not len(raw) else undistort(raw, lens)
        return [[float(x), float(y)] for x, y in shown]

    def _tell_annotated(self) -> None:
        if (message := self._take("annotated")) is not None:
            stamp_ns = stamp_to_ns(message.header.stamp)
            self._hub.put("answer_image", image_message("answer_image", decode_color(message), stamp_ns))

    def _tell_object(self) -> None:
        """The points of the objects, in the frame of the targets if it can be reached."""
        message = self._take("object_points")
        if message is None:
            return
        stamp_ns, optical = stamp_to_ns(message.header.stamp), message.header.frame_id
        T, frame_id = self._camera.transform(self._answer_frame, optical, stamp_ns)
        clouds = list(clouds_by_instance(message).values())
        points = np.concatenate([points for points, _ in clouds] or [np.zeros((0, 3))])
        colors = np.concatenate([colors for _, colors in clouds] or [np.zeros((0, 3), np.uint8)])
        self._hub.put("object", cloud_message("object", points, colors, T, frame_id, stamp_ns))

    def _tell_state(self) -> None:
        self._state.tell(self._hub)
        if (cameras := self._state.cameras()) and cameras != self._cameras:
            self._cameras = cameras
            if self.camera_name not in cameras:
                self.camera_name = next(iter(cameras))
            self._tell_cameras()
        with suppress(MolmoRosError):
            self._camera.use(self._cameras.get(self.camera_name, {}))

    def _tell_cameras(self) -> None:
        self._hub.tell("cameras", {"names": list(self._cameras), "shown": self.camera_name})
