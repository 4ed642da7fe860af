"""The action ~/track: find with the model, then follow with the camera.

Several goals run independently, up to ``max_tracks``; a new goal does not end a running one. To follow
something else, a client cancels the old goal. A goal waits in a thread of the executor, so the executor needs
one for each.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup

from molmo_ros.action import Track
from molmo_ros.checkpoint.query import parse_query
from molmo_ros.errors import BusyError, ParameterError
from molmo_ros.ros.context import REQUEST_QOS, NodeContext
from molmo_ros.ros.following import POLL_S, Following, Shared, TrackQuery
from molmo_ros.ros.live import LiveTargets

# How long a result is kept for a client that did not ask at once. rclpy's own default is 15 minutes, and each
# status message lists every goal since then.
RESULT_KEPT_S = 60.0


class Tracking:
    """The action server."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._closed = threading.Event()
        live, numbers = LiveTargets(context.outputs), itertools.count(1)
        self._shared = Shared(context, live, numbers, self._closed)
        self._lock = threading.Lock()
        self.running = 0
        self._following: dict[bytes, Following] = {}  # by the id of the goal
        self._server = ActionServer(
            context.node,
            Track,
            "~/track",
            self._execute,
            cancel_callback=self._cancel,
            goal_service_qos_profile=REQUEST_QOS,
            result_service_qos_profile=REQUEST_QOS,
            cancel_service_qos_profile=REQUEST_QOS,
            result_timeout=RESULT_KEPT_S,
            callback_group=ReentrantCallbackGroup(),
        )

    def close(self) -> None:
        """End all goals, then the server."""
        self._closed.set()
        give_up = time.monotonic() + 2.0
        while self.running and time.monotonic() < give_up:
            time.sleep(POLL_S)
        self._server.destroy()

    def _cancel(self, goal: Any) -> CancelResponse:
        """At once, not when the goal next checks: it may be waiting for the model."""
        following = self._following.get(_key(goal))
        if following is not None:
            following.cancel()
        return CancelResponse.ACCEPT

    def _execute(self, goal: Any) -> Any:
        """Run one goal to its end; nothing is raised."""
        session: Following | None = None
        try:
            self._enter()
            try:
                self._context.model.grounder()  # first of all, whether the node is ready
                session = Following(self._shared, goal, self._query(goal.request))
                self._following[_key(goal)] = session
                session.run()
            finally:
                self._following.pop(_key(goal), None)
                self._leave()
            goal.succeed()
            return _result(session, "", "followed to the end")
        except Exception as error:
            return self._fail(goal, session, error)

    def _fail(self, goal: Any, session: Following | None, error: Exception) -> Any:
        code, text = self._context.describe_error(error, "a track")
        self._context.node.get_logger().info(f"a track ended ({code}): {text}")
        if session is not None and session.cancelled:
            _wait_for_cancel_request(goal)
        if goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return _result(session, code, text)

    def _enter(self) -> None:
        limit = self._context.config().max_tracks
        with self._lock:
            if self.running >= limit:
                raise BusyError(f"Busy: {self.running} tracks run already; cancel one, or raise max_tracks.")
            self.running += 1

    def _leave(self) -> None:
        with self._lock:
            self.running -= 1

    def _query(self, goal: Any) -> TrackQuery:
        config = self._context.config()
        if not (0.0 <= goal.duration_s < np.inf and 0.0 <= goal.rate_hz < np.inf):
            raise ParameterError(
                f"duration_s is {goal.duration_s:g} and rate_hz {goal.rate_hz:g}; give 0 or more."
            )
        return TrackQuery(
            query=parse_query(goal.query, config.max_query_chars),
            camera=self._context.camera(goal.camera),
            target_frame=goal.target_frame or config.target_frame,
            duration_s=float(goal.duration_s),
            period_s=1.0 / goal.rate_hz if goal.rate_hz > 0 else 0.0,
        )


def _key(goal: Any) -> bytes:
    return bytes(goal.goal_id.uuid)


def _result(session: Following | None, code: str, text: str) -> Any:
    targets = [] if session is None else session.targets
    return Track.Result(success=not code, message=text, code=code, targets=targets)


def _wait_for_cancel_request(goal: Any) -> None:
    """rclpy marks a goal as being cancelled after the callback that stopped it; only then may it end so."""
    give_up = time.monotonic() + 1.0
    while not goal.is_cancel_requested and time.monotonic() < give_up:
        time.sleep(POLL_S)
