"""Whether somebody still listens to a goal: a client that is killed never cancels it."""

from __future__ import annotations

import time

from rclpy.node import Node

LOOK_S = 1.0
LEARN_S = 3.0  # discovery may tell of the client a little after its goal has come
ALONE_S = 10.0  # a goal that nobody was ever seen to listen to ends then


class Callers:
    """Those who were subscribed to the feedback of ~/track when a goal began; its client is one of them.

    The middleware forgets a process that was killed after its liveliness lease, about 20 s with Fast DDS.
    rclpy does not tell which of them sent the goal: it ends when the last of them is gone.
    """

    def __init__(self, node: Node) -> None:
        self._node, self._topic = node, f"{node.get_fully_qualified_name()}/track/_action/feedback"
        self._began = self._looked = time.monotonic()
        self._known: set[bytes] = set()

    def gone(self) -> bool:
        """Whether nobody is left. Looks at the graph once a second."""
        now = time.monotonic()
        if now - self._looked < LOOK_S and self._looked != self._began:
            return False
        self._looked = now
        infos = self._node.get_subscriptions_info_by_topic(self._topic)
        present = {bytes(info.endpoint_gid) for info in infos}
        if now - self._began < LEARN_S:
            self._known |= present
            return False
        if not self._known:
            self._known |= present
            return now - self._began > ALONE_S and not present
        return not self._known & present
