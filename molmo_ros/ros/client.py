"""A small client: ask a running node from any Python program, which may or may not have its own node."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from types import TracebackType
from typing import Any

import rclpy
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from molmo_ros.action import Track
from molmo_ros.errors import CancelledError, NotReadyError
from molmo_ros.ros.callers import sign
from molmo_ros.ros.context import REQUEST_QOS
from molmo_ros.srv import Ask, Ground

WAITING = "NOT_READY"  # the code of a node that is still loading
PROBE_S = 2.0  # an empty query is refused at once
GRACE_S = 2.0  # the node itself gives up at timeout_s; its answer still has to arrive


class GraspClient:
    """Calls the services of a node ``molmo``.

    >>> with GraspClient() as client:
    ...     response = client.find("the red mug")
    ...     print(response.targets[0].grasp_pose)
    """

    def __init__(self, name: str = "/molmo", context: Context | None = None) -> None:
        """``name``: full name of the node to ask. Without a context, rclpy is initialised if need be."""
        if context is None and not rclpy.ok():
            rclpy.init()
        self.node = Node(f"grasp_client_{time.monotonic_ns() % 10**9}", context=context)
        self._name = name
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self._ground = self.node.create_client(Ground, f"{name}/ground", qos_profile=REQUEST_QOS)
        self._track = ActionClient(self.node, Track, f"{name}/track")
        self._ask = self.node.create_client(Ask, f"{name}/ask", qos_profile=REQUEST_QOS)
        self._reached: set[Any] = set()  # clients that have had an answer

    def find(
        self,
        query: str,
        *,
        camera: str = "",
        target_frame: str = "",
        max_targets: int = 0,
        grasp: bool = True,
        timeout_s: float = 0.0,
        stamp: Any = None,
        wait_s: float = 60.0,
    ) -> Ground.Response:
        """srv/Ground: where is it, and how to grasp it. See Ground.srv for the arguments.

        Raises: NotReadyError if the node is not there, CancelledError if it stays silent for ``wait_s``.
        """
        request = Ground.Request(
            query=query,
            camera=camera,
            target_frame=target_frame,
            max_targets=int(max_targets),
            grasp=bool(grasp),
            timeout_s=float(timeout_s),  # the generated C code aborts the process on an int
            **({} if stamp is None else {"stamp": stamp}),
        )
        self._reach(self._ground, Ground.Request(query=""), wait_s)
        return self._call(self._ground, request, timeout_s, wait_s)

    def ask(
        self,
        prompt: str,
        *,
        camera: str = "",
        max_tokens: int = 0,
        timeout_s: float = 0.0,
        wait_s: float = 60.0,
    ) -> Ask.Response:
        """srv/Ask: a free question about the view. Raises: as ``find``."""
        request = Ask.Request(
            prompt=prompt, camera=camera, max_tokens=int(max_tokens), timeout_s=float(timeout_s)
        )
        self._reach(self._ask, Ask.Request(prompt=""), wait_s)
        return self._call(self._ask, request, timeout_s, wait_s)

    def track(
        self,
        query: str,
        *,
        camera: str = "",
        target_frame: str = "",
        duration_s: float = 0.0,
        rate_hz: float = 0.0,
        wait_s: float = 60.0,
    ) -> Generator[Track.Feedback, None, Track.Result]:
        """action/Track: find and follow; yields each feedback until the goal ends, and returns its result.

        Leaving the loop (or ``close()`` of the generator) cancels the goal.
        Raises: NotReadyError if the node is not there.
        """
        if not self._track.wait_for_server(timeout_sec=wait_s):
            raise NotReadyError(f"There is no action {self._name}/track; start the node and check its name.")
        heard: deque[Any] = deque()
        goal = Track.Goal(
            query=query,
            camera=camera,
            target_frame=target_frame,
            duration_s=float(duration_s),
            rate_hz=float(rate_hz),
        )
        sent = self._track.send_goal_async(
            goal, feedback_callback=lambda m: heard.append(m.feedback), goal_uuid=sign(self.node)
        )
        if not self.spin_until(sent, wait_s) or not sent.result().accepted:
            raise NotReadyError(f"{self._name}/track did not take the goal; is the node alive?")
        handle = sent.result()
        ended = handle.get_result_async()
        try:
            while not ended.done() or heard:
                while heard:
                    yield heard.popleft()
                self._executor.spin_once(timeout_sec=0.05)
        finally:
            if not ended.done():
                handle.cancel_goal_async()
                self.spin_until(ended, GRACE_S)
        return ended.result().result

    def wait_ready(self, wait_s: float = 120.0) -> None:
        """Wait until the node answers.

        Raises: NotReadyError with the node's own words and code if it does not in time, or never will.
        """
        give_up = time.monotonic() + wait_s
        code = WAITING
        said = f"There is no node {self._name}; start it: ros2 launch molmo_ros molmo.launch.py"
        while time.monotonic() < give_up:
            if self._ground.service_is_ready():
                try:
                    response = self._call(self._ground, Ground.Request(query=""), 0.0, min(PROBE_S, wait_s))
                except CancelledError as silence:
                    # Too busy starting to answer in time; or it had not yet discovered this client,
                    # and DDS has lost the answer.
                    said = str(silence)
                    continue
                if response.code == "BAD_QUERY":  # an empty query is refused by a node that is ready
                    return
                said, code = response.message, response.code
                if code != WAITING:
                    break
            self.spin(0.2)
        error = NotReadyError(said)
        error.code = code
        raise error

    def spin(self, seconds: float) -> None:
        """Let callbacks of ``self.node`` run for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def spin_until(self, future: Any, timeout_s: float) -> bool:
        """Let callbacks of ``self.node`` run until a future is done; whether it is."""
        self._executor.spin_until_future_complete(future, timeout_sec=timeout_s)
        return bool(future.done())

    def close(self) -> None:
        """Destroy the client's node."""
        self._track.destroy()
        self._executor.shutdown()
        self.node.destroy_node()

    def __enter__(self) -> GraspClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reach(self, client: Any, nothing: Any, wait_s: float) -> None:
        """Until the node has discovered a client, DDS drops its answers: first send a request that is refused
        at once."""
        self._find_service(client, wait_s)
        give_up = time.monotonic() + wait_s
        while client not in self._reached and (left := give_up - time.monotonic()) > 0:
            with suppress(CancelledError):
                self._call(client, nothing, 0.0, min(PROBE_S, left))

    def _find_service(self, client: Any, wait_s: float) -> None:
        if not client.wait_for_service(timeout_sec=wait_s):
            raise NotReadyError(
                f"There is no service {client.srv_name}; start the node (ros2 launch molmo_ros "
                "molmo.launch.py), and check ROS_DOMAIN_ID and the namespace."
            )

    def _call(self, client: Any, request: Any, timeout_s: float, wait_s: float) -> Any:
        self._find_service(client, wait_s)
        future = client.call_async(request)
        patience = timeout_s + GRACE_S if timeout_s > 0 else wait_s
        if not self.spin_until(future, patience):
            client.remove_pending_request(future)
            name = client.srv_name
            raise CancelledError(f"{name} did not answer within {patience:.0f} s; is the node alive?")
        self._reached.add(client)
        return future.result()
