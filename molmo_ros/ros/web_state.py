"""The node's state, from its diagnostics and the ROS graph: state, latency of stages, topics of its
camera."""

from __future__ import annotations

import threading
import time
from typing import Any

from rclpy.node import Node

from molmo_ros.errors import ParameterError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.ros.diagnostics import OK
from molmo_ros.web.hub import Hub
from molmo_ros.web.targets import gripper_message

SILENT_S = 3.0  # longer without diagnostics, and three of their periods, means that the node is gone
P50, P95 = "_ms_p50", "_ms_p95"
LEVELS = {b"\x00": "ok", b"\x01": "warn", b"\x02": "error", b"\x03": "stale"}


class NodeState:
    """Hears /diagnostics, which several nodes share; ``tell`` tells the hub what is new."""

    def __init__(self, node: Node, name: str) -> None:
        """name: the full one of the node molmo."""
        self._node, self._name = node, name
        self._namespace, self._base = name.rsplit("/", 1)
        self._lock = threading.Lock()
        self._statuses: list[Any] = []
        self._heard_at, self._period_s = float("-inf"), 1.0
        self._told: dict[str, Any] = {}
        self._started = time.monotonic()

    def hear(self, message: Any) -> None:
        """diagnostic_msgs/DiagnosticArray."""
        mine = [
            s for s in message.status if s.hardware_id == "molmo_ros" and s.name.startswith(f"{self._base}: ")
        ]
        if not mine or not self._is_ours(mine):
            return
        now = time.monotonic()
        with self._lock:
            if self._statuses:
                self._period_s = min(max(now - self._heard_at, 0.1), 60.0)
            self._statuses, self._heard_at = mine, now

    def cameras(self) -> dict[str, dict[str, str]]:
        """Name of each camera -> its topics image, depth and camera_info; empty if they are not known.

        A single camera may have the name "".
        """
        head, found = f"{self._base}: camera", {}
        with self._lock:
            statuses = [status for status in self._statuses if status.name.startswith(head)]
        for status in statuses:
            values = {pair.key: pair.value for pair in status.values}
            topics = {topic: values[f"{topic}_topic"] for topic in ("image", "depth", "camera_info")}
            found[status.name.removeprefix(head).strip()] = topics
        return found

    def tell(self, hub: Hub) -> None:
        """status, diagnostics, latency and gripper, each if it has changed."""
        with self._lock:
            statuses, silent_s = list(self._statuses), time.monotonic() - self._heard_at
        gone = silent_s > max(SILENT_S, 3 * self._period_s) or not self._is_there()
        self._tell(hub, "status", self._status(statuses, gone))
        if not statuses:
            return
        shown = [_status_keys(status) for status in statuses]
        self._tell(hub, "diagnostics", {"statuses": shown, "gone": gone})
        self._tell(hub, "latency", {"stages": _stages(statuses)})
        self._tell_gripper(hub, statuses)

    def _status(self, statuses: list[Any], gone: bool) -> dict[str, Any]:
        if gone and not statuses and time.monotonic() - self._started < SILENT_S:
            return {"level": "wait", "text": f"looking for {self._name} ..."}
        if gone:
            return {
                "level": "error",
                "text": f"There is no node {self._name}; start it: ros2 launch molmo_ros molmo.launch.py. "
                "(Check ROS_DOMAIN_ID and the namespace if it runs.)",
            }
        bad = [s for s in statuses if s.level != OK]
        if not bad:
            return {"level": "ok", "text": "ready"}
        return {"level": LEVELS.get(bad[0].level, "warn"), "text": " ".join(s.message for s in bad)}

    def _tell(self, hub: Hub, kind: str, content: dict[str, Any]) -> None:
        if self._told.get(kind) != content:
            self._told[kind] = content
            hub.tell(kind, content)

    def _tell_gripper(self, hub: Hub, statuses: list[Any]) -> None:
        names = [pair.value for status in statuses for pair in status.values if pair.key == "gripper"]
        try:
            if names:
                self._tell(hub, "gripper", gripper_message(Gripper.load(names[0])))
        except ParameterError:
            pass  # a file on another machine; the page draws a plain hand

    def _is_there(self) -> bool:
        return bool(self._node.count_publishers(f"{self._name}/targets"))

    def _is_ours(self, statuses: list[Any]) -> bool:
        """False for another node molmo, in another namespace, which listens to other topics."""
        topics = {pair.value for s in statuses for pair in s.values if pair.key == "image_topic"}
        try:
            listens = self._node.get_subscriber_names_and_types_by_node(self._base, self._namespace or "/")
        except Exception:  # rclpy raises if it does not know the node (yet)
            return False
        return topics <= {name for name, _ in listens}


def _status_keys(status: Any) -> dict[str, Any]:
    values = {pair.key: pair.value for pair in status.values}
    level = LEVELS.get(status.level, "warn")
    return {"name": status.name, "level": level, "message": status.message, "values": values}


def _stages(statuses: list[Any]) -> dict[str, list[float]]:
    """stage -> [p50, p95] ms."""
    values = {pair.key: pair.value for status in statuses for pair in status.values}
    names = [key.removesuffix(P50) for key in values if key.endswith(P50)]
    return {name: [float(values[name + P50]), float(values[name + P95])] for name in names}
