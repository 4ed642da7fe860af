"""From a server's threads to a running node: calls that wait, goals that keep running, the newest images."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import numpy as np
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image as ImageMessage

from molmo_ros.action import Track
from molmo_ros.camera.conversions import stamp_to_ns
from molmo_ros.datatypes import Image
from molmo_ros.errors import CancelledError, NotReadyError
from molmo_ros.msg import GraspTargetArray
from molmo_ros.ros.outputs import LATCHED
from molmo_ros.srv import Ask, Ground

ANSWER_S = 60.0  # the node gives up before, by its own parameter timeout_s
DISCOVERY_S = 5.0
PICTURE_S = 3.0  # the picture is drawn after the answer is sent
KEPT = 8  # pictures and answers


class Goal:
    """One goal of ~/track; its state may be read from any thread."""

    def __init__(self) -> None:
        self.feedback: Any = None  # the newest Track.Feedback
        self.heard_s = time.monotonic()  # when it, or the result, came
        self.result: Any = None  # Track.Result once it has ended
        self.handle: Any = None
        self.ended = threading.Event()

    def cancel(self) -> None:
        """Ask the node to end the goal."""
        if self.handle is not None and not self.ended.is_set():
            self.handle.cancel_goal_async()


class Bridge:
    """A node of its own context, spun by a thread until ``close``."""

    def __init__(self, name: str = "/molmo", *, pictures: bool = True) -> None:
        """name: full name of the node to ask; pictures: subscribe to them, which makes the node draw them."""
        self.name = name
        self._context = Context()
        self._context.init()
        self.node = Node(f"mcp_{time.monotonic_ns() % 10**9}", context=self._context)
        self._ground = self.node.create_client(Ground, f"{name}/ground")
        self._ask = self.node.create_client(Ask, f"{name}/ask")
        self._track = ActionClient(self.node, Track, f"{name}/track")
        self._pictures: OrderedDict[int, ImageMessage] = OrderedDict()
        self._answers: OrderedDict[int, str] = OrderedDict()
        self._news = threading.Condition()
        if pictures:
            self.node.create_subscription(ImageMessage, f"{name}/annotated", self._on_picture, LATCHED)
            self.node.create_subscription(GraspTargetArray, f"{name}/targets", self._on_targets, LATCHED)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True, name="mcp bridge")
        self._thread.start()

    def ground(self, **fields: Any) -> Any:
        """srv/Ground. Raises: NotReadyError, CancelledError."""
        return self._call(self._ground, Ground.Request(**fields))

    def ask(self, **fields: Any) -> Any:
        """srv/Ask. Raises: as ``ground``."""
        return self._call(self._ask, Ask.Request(**fields))

    def track(self, **fields: Any) -> Goal:
        """Send a goal of action/Track; it runs on. Raises: NotReadyError if the node does not take it."""
        if not self._track.wait_for_server(timeout_sec=DISCOVERY_S):
            raise NotReadyError(f"There is no action {self.name}/track; start the node and check its name.")
        goal = Goal()

        def on_feedback(message: Any) -> None:
            goal.feedback, goal.heard_s = message.feedback, time.monotonic()

        sent = self._wait(
            self._track.send_goal_async(Track.Goal(**fields), feedback_callback=on_feedback), 10.0
        )
        if sent is None or not sent.accepted:
            raise NotReadyError(f"{self.name}/track did not take the goal; is the node ready?")
        goal.handle = sent

        def on_result(future: Any) -> None:
            goal.result, goal.heard_s = future.result().result, time.monotonic()
            goal.ended.set()

        sent.get_result_async().add_done_callback(on_result)
        return goal

    def picture(self, stamp_ns: int) -> Image | None:
        """The annotated picture (H,W,3) uint8 of an answer by the stamp of its image; None if none comes."""
        with self._news:
            self._news.wait_for(lambda: stamp_ns in self._pictures, PICTURE_S)
            message = self._pictures.get(stamp_ns)
        if message is None:
            return None
        return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)

    def stamp_of(self, query: str) -> int | None:
        """The stamp of the newest answer to a query, by its cleaned words; None if unknown."""
        with self._news:
            found = [stamp for stamp, text in self._answers.items() if text == query]
        return found[-1] if found else None

    def close(self) -> None:
        """Destroy the node; goals end on the other side when their time is up."""
        self._executor.shutdown(timeout_sec=1.0)
        self._thread.join(2.0)
        self._track.destroy()
        self.node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _on_picture(self, message: ImageMessage) -> None:
        self._keep(self._pictures, message, message)

    def _on_targets(self, message: GraspTargetArray) -> None:
        self._keep(self._answers, message, message.query)

    def _keep(self, store: OrderedDict[int, Any], message: Any, value: Any) -> None:
        with self._news:
            store[stamp_to_ns(message.header.stamp)] = value
            while len(store) > KEPT:
                store.popitem(last=False)
            self._news.notify_all()

    def _call(self, client: Any, request: Any) -> Any:
        if not client.wait_for_service(timeout_sec=DISCOVERY_S):
            raise NotReadyError(
                f"There is no service {client.srv_name}; start the node (ros2 launch molmo_ros "
                "molmo.launch.py), and check ROS_DOMAIN_ID and --node."
            )
        future = client.call_async(request)
        response = self._wait(future, ANSWER_S)
        if response is None:
            client.remove_pending_request(future)
            raise CancelledError(f"{client.srv_name} did not answer in {ANSWER_S:.0f} s; is the node alive?")
        return response

    @staticmethod
    def _wait(future: Any, seconds: float) -> Any:
        """The result of a future; None if it takes longer. The bridge's own thread completes it."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        return future.result() if done.wait(seconds) else None
