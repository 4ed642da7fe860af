"""What a page asks of the node: through the same services and action as everybody, so limits and policy
hold."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node
from std_srvs.srv import Trigger

from molmo_ros.action import Track
from molmo_ros.checkpoint.query import parse_query
from molmo_ros.errors import BusyError, CancelledError, NotReadyError, QueryError
from molmo_ros.ros.messages import target_from_message
from molmo_ros.srv import Ask, Ground
from molmo_ros.web.hub import Hub
from molmo_ros.web.source import Reply
from molmo_ros.web.targets import outcome

LOOK_S = 0.5  # how often a waiting request checks whether the node is still there
GONE_LOOKS = 4  # missing in this many checks: it is gone
PATIENCE_S = 120.0  # an answer that DDS has lost; the node itself gives up much earlier


class Requests:
    """Clients of the node's services; the executor of ``node`` spins in another thread."""

    def __init__(self, node: Node, name: str, hub: Hub) -> None:
        self._node, self._name, self._hub = node, name, hub
        self._ground = node.create_client(Ground, f"{name}/ground")
        self._ask = node.create_client(Ask, f"{name}/ask")
        self._save = node.create_client(Trigger, f"{name}/save")
        self._track = ActionClient(node, Track, f"{name}/track")
        self._closed = threading.Event()
        self._tracking = threading.Lock()
        self._goal: Any = None
        self._mine: dict[str, float] = {}  # query -> when it was asked from here
        hub.tell("track", {"running": False})

    def is_mine(self, query: str) -> bool:
        """Whether an answer on the topics belongs to a request from here, which records it itself."""
        return time.monotonic() - self._mine.get(query, float("-inf")) < PATIENCE_S

    def ground(self, query: str, camera: str = "") -> Reply:
        """srv/Ground. Raises: NotReadyError, CancelledError."""
        self._remember(query)
        response, ms = self._call(self._ground, Ground.Request(query=query, camera=camera, grasp=True))
        targets = [target_from_message(target) for target in response.targets]
        told = outcome(targets) if response.success else f"{response.code}: {response.message}"
        self._hub.note(query, "find", told, bool(response.success), ms)
        return Reply(bool(response.success), response.message, response.code, response.answer)

    def ask(self, question: str, camera: str = "") -> Reply:
        """srv/Ask. Raises: NotReadyError, CancelledError."""
        response, ms = self._call(self._ask, Ask.Request(prompt=question, camera=camera))
        told = response.answer if response.success else f"{response.code}: {response.message}"
        self._hub.note(question, "ask", told, bool(response.success), ms)
        return Reply(bool(response.success), response.message, response.code, response.answer)

    def save(self) -> Reply:
        """~/save of the node. Raises: NotReadyError, CancelledError."""
        response, _ = self._call(self._save, Trigger.Request())
        return Reply(bool(response.success), response.message, "" if response.success else "NOT_SAVED")

    def track(self, query: str, camera: str = "") -> Reply:
        """action/Track until it ends. Raises: BusyError, NotReadyError, CancelledError."""
        if not self._tracking.acquire(blocking=False):
            raise BusyError("A track from a page runs already; stop it first.")
        started = time.perf_counter()
        try:
            self._remember(query)
            result = self._follow(query, camera)
        finally:
            self._goal = None
            self._tracking.release()
            self._hub.tell("track", {"running": False})
        ms = (time.perf_counter() - started) * 1e3
        stopped = result.code == CancelledError.code
        told = "stopped" if stopped else result.message or "ended"
        self._hub.note(query, "track", told, bool(result.success) or stopped, ms)
        return Reply(bool(result.success) or stopped, told, "" if stopped else result.code)

    def cancel(self) -> Reply:
        """End the track."""
        goal = self._goal
        if goal is None:
            return Reply(True, "Nothing is tracked.")
        goal.cancel_goal_async()
        return Reply(True, "stopped")

    def close(self) -> None:
        """End the track, and give up whatever waits."""
        self.cancel()
        self._closed.set()
        self._track.destroy()

    def _remember(self, query: str) -> None:
        with suppress(QueryError):  # the node says so
            self._mine[parse_query(query).text] = time.monotonic()

    def _follow(self, query: str, camera: str) -> Any:
        if not self._track.server_is_ready():
            raise NotReadyError(self._absent("track"))

        def tell(message: Any) -> None:
            stage, age = message.feedback.stage, message.feedback.age
            self._hub.tell("track", {"running": True, "query": query, "stage": stage, "age": age})

        sent = self._track.send_goal_async(Track.Goal(query=query, camera=camera), feedback_callback=tell)
        self._goal = goal = self._wait(sent, self._track.server_is_ready, float("inf"))
        if not goal.accepted:
            raise NotReadyError(f"{self._name}/track did not take the goal; ask again in a moment.")
        self._hub.tell("track", {"running": True, "query": query, "stage": "waiting", "age": None})
        return self._wait(goal.get_result_async(), self._track.server_is_ready, float("inf")).result

    def _call(self, client: Any, request: Any) -> tuple[Any, float]:
        """The response and how long it took in ms."""
        started = time.perf_counter()
        if not client.service_is_ready():
            raise NotReadyError(self._absent(client.srv_name.rsplit("/", 1)[-1]))
        response = self._wait(client.call_async(request), client.service_is_ready, PATIENCE_S)
        return response, (time.perf_counter() - started) * 1e3

    def _wait(self, future: Any, is_there: Any, patience_s: float) -> Any:
        """Its result. Raises: NotReadyError if the node ends, CancelledError if it never answers."""
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        give_up, missed = time.monotonic() + patience_s, 0
        while not done.wait(LOOK_S):
            missed = 0 if is_there() else missed + 1
            if missed >= GONE_LOOKS:
                raise NotReadyError(f"{self._name} has ended before it answered; start it and ask again.")
            if self._closed.is_set() or time.monotonic() > give_up:
                raise CancelledError(f"{self._name} has not answered; is the node alive?")
        return future.result()

    def _absent(self, what: str) -> str:
        return (
            f"There is no {self._name}/{what}; start the node (ros2 launch molmo_ros molmo.launch.py), and "
            "check ROS_DOMAIN_ID and the namespace."
        )
