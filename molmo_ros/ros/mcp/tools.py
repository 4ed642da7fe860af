"""What an agent can do with the node: each tool checks the permissions, calls the node and reports its
answer.

Every failure is a result with the stable code of ``errors`` and the node's own words, never an exception.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from molmo_ros.camera.conversions import stamp_to_ns
from molmo_ros.checkpoint.query import parse_query
from molmo_ros.datatypes import Image, TargetStatus
from molmo_ros.errors import BusyError, MolmoRosError, ParameterError
from molmo_ros.ros.mcp.bridge import Bridge, Goal
from molmo_ros.ros.mcp.permissions import Permissions, Rate

MAX_TARGETS = 20
MAX_ENDED = 16  # tracks that have ended and may still be asked about

Result = dict[str, Any]


@dataclass
class Tools:
    """The tools, for all clients of one server. Thread-safe."""

    bridge: Bridge
    permissions: Permissions
    _goals: dict[str, Goal] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._rate = Rate(self.permissions.queries_per_minute)

    def ground(self, query: str, camera: str, grasp: bool) -> Result:
        """Where a thing is, and how to grasp it."""
        return self._guarded("ground", lambda: self._ground(query, camera, grasp))

    def ask(self, question: str, camera: str) -> Result:
        """A free question about the view."""

        def work() -> Result:
            response = self.bridge.ask(prompt=question, camera=self._query_camera(camera))
            return {
                **_said(response),
                "answer": response.answer,
                "points": [point(p) for p in response.points],
            }

        return self._guarded("ask", work)

    def look(self, query: str, camera: str) -> tuple[Result, Image | None]:
        """The answer to a query, and the picture with what was found drawn in."""
        picture: list[Image | None] = [None]

        def work() -> Result:
            result = self._ground(query, camera, grasp=False)
            if result["success"]:
                picture[0] = self._picture(query, result.pop("stamp_ns"))
            return result

        return self._guarded("look", work), picture[0]

    def track_start(self, query: str, camera: str, duration_s: float) -> Result:
        """Follow a thing; returns the id of the track."""

        def work() -> Result:
            most = self.permissions.max_track_s
            if not 0.0 < duration_s <= most:
                raise ParameterError(
                    f"duration_s is {duration_s:g}; give a number above 0, at most {most:g} s."
                )
            with self._lock:
                running = sum(not goal.ended.is_set() for goal in self._goals.values())
                if running >= self.permissions.max_tracks:
                    raise BusyError(f"{running} tracks run, and no more are permitted; cancel one, or wait.")
                chosen = self._query_camera(camera)
                goal = self.bridge.track(
                    query=query, camera=chosen, duration_s=float(duration_s), rate_hz=5.0
                )
                name = secrets.token_hex(8)
                self._forget_ended()
                self._goals[name] = goal
            return {"success": True, "code": "", "message": "following", "track": name}

        return self._guarded("track", work)

    def track_state(self, track: str) -> Result:
        """What a track does now: stage, targets, and the result once it has ended."""
        return self._guarded("track", lambda: _state(self._goal(track)))

    def track_cancel(self, track: str) -> Result:
        """End a track."""

        def work() -> Result:
            goal = self._goal(track)
            goal.cancel()
            goal.ended.wait(5.0)
            return {**_state(goal), "success": goal.ended.is_set()}

        return self._guarded("track", work)

    def close(self) -> None:
        """End all tracks: nobody else is left to do it."""
        for goal in self._goals.values():
            goal.cancel()
        for goal in self._goals.values():
            goal.ended.wait(2.0)

    def _guarded(self, tool: str, work: Callable[[], Result]) -> Result:
        try:
            self.permissions.check_tool(tool)
            result = work()
        except MolmoRosError as error:
            return {"success": False, "code": error.code, "message": str(error)}
        result.pop("stamp_ns", None)
        return result

    def _query_camera(self, camera: str) -> str:
        """Check the camera, and count the query. Raises: NotPermittedError, BusyError."""
        allowed = self.permissions.check_camera(camera)
        self._rate.take()
        return allowed

    def _ground(self, query: str, camera: str, grasp: bool) -> Result:
        response = self.bridge.ground(
            query=query, camera=self._query_camera(camera), grasp=grasp, max_targets=MAX_TARGETS
        )
        stamp = stamp_to_ns(response.targets[0].header.stamp) if response.targets else None
        targets = [target(t) for t in response.targets]
        return {**_said(response), "answer": response.answer, "targets": targets, "stamp_ns": stamp}

    def _picture(self, query: str, stamp_ns: int | None) -> Image | None:
        """The picture of an answer. Where nothing was found, its stamp is known by the query's words,
        which another client may have asked of another camera: then only if all cameras are permitted.
        """
        if stamp_ns is None and self.permissions.cameras is None:
            stamp_ns = self.bridge.stamp_of(parse_query(query).text)
        return None if stamp_ns is None else self.bridge.picture(stamp_ns)

    def _goal(self, track: str) -> Goal:
        with self._lock:
            if track not in self._goals:
                raise ParameterError(f"There is no track {track!r:.40}; give what track_start returned.")
            return self._goals[track]

    def _forget_ended(self) -> None:
        ended = [name for name, goal in self._goals.items() if goal.ended.is_set()]
        for name in ended[: max(len(ended) - MAX_ENDED, 0)]:
            del self._goals[name]


def _said(response: Any) -> Result:
    return {"success": bool(response.success), "code": response.code, "message": response.message}


def _state(goal: Goal) -> Result:
    """What a track last reported, with its age by now; no grasps once it has ended, since nobody watches any
    more."""
    since = time.monotonic() - goal.heard_s
    if goal.ended.is_set():
        result = goal.result
        targets = [target(t, since, grasp=False) for t in result.targets]
        return {**_said(result), "stage": "ended", "targets": targets}
    heard = goal.feedback
    if heard is None:
        return {"success": True, "code": "", "message": "", "stage": "waiting", "targets": []}
    targets = [target(t, since) for t in heard.targets]
    return {
        "success": True,
        "code": "",
        "message": "",
        "stage": heard.stage,
        "age_s": _known(heard.age + since),
        "targets": targets,
    }


def point(message: Any) -> Result:
    """msg/GroundedPoint as JSON keys; unknown numbers are null."""
    return {
        "label": message.label,
        "x": _known(message.x),
        "y": _known(message.y),
        "confidence": _known(message.confidence),
    }


def target(message: Any, since_s: float = 0.0, *, grasp: bool = True) -> Result:
    """msg/GraspTarget, received since_s ago, as JSON keys. A grasp is given only if the node says OK."""
    usable = grasp and message.status == TargetStatus.OK
    told: Result = {
        "point": point(message.point),
        "status": TargetStatus(message.status).name,
        "status_text": message.status_text,
        "frame_id": message.header.frame_id,
        "position_m": _vector(message.position),
        "size_m": _vector(message.object_size),
        "age_s": _known(message.age + since_s),
    }
    if usable and _known(message.width) is not None:
        told["grasp"] = {
            "position_m": _vector(message.grasp_pose.position),
            "orientation_xyzw": _quaternion(message.grasp_pose.orientation),
            "pregrasp_position_m": _vector(message.pregrasp_pose.position),
            "width_m": _known(message.width),
            "opening_m": _known(message.opening),
            "quality": _known(message.quality),
        }
    return told


def _vector(v: Any) -> list[float] | None:
    values = [v.x, v.y, v.z]
    return [round(x, 5) for x in values] if all(math.isfinite(x) for x in values) else None


def _quaternion(q: Any) -> list[float]:
    return [round(x, 6) for x in (q.x, q.y, q.z, q.w)]


def _known(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None
