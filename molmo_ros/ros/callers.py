"""Whether somebody still listens to a goal: a client that is killed never cancels it.

rclpy does not tell which client sent a goal. A client may say so by the goal's id, whose first half then is a
hash of its node's name (``sign``); for other goals, those who listen when the goal begins stand for its
client.
"""

from __future__ import annotations

import hashlib
import os
import time

from rclpy.node import Node
from unique_identifier_msgs.msg import UUID

LOOK_S = 1.0
LEARN_S = 3.0  # discovery may report the client a little after its goal has arrived
ALONE_S = 10.0  # a goal that nobody was ever seen to listen to ends then
UNKNOWN = "_NODE_NAME_UNKNOWN_"  # rcl's name for a node of which only the endpoint is known yet
SIGNED = b"mr"  # an id that begins like this identifies its client


def sign(node: Node) -> UUID:
    """An id for a goal of this node: random, except for the half that identifies the sender."""
    return UUID(uuid=list(_mark(node.get_namespace(), node.get_name()) + os.urandom(8)))


def _mark(namespace: str, name: str) -> bytes:
    path = f"{namespace.rstrip('/')}/{name}"
    return SIGNED + hashlib.blake2b(path.encode(), digest_size=8 - len(SIGNED)).digest()


class Callers:
    """Who listens to a goal of ~/track: the client that signed it, or all who listened when it began.

    The middleware forgets a process that was killed after its liveliness lease, about 20 s with Fast DDS. An
    unsigned goal ends when the last of its listeners is gone. If the name of a goal's signer never arrived,
    the goal ends when every listener is known to be somebody else.
    """

    def __init__(self, node: Node, goal_id: bytes = b"") -> None:
        """``goal_id``: the 16 bytes of the goal's id."""
        self._mark = goal_id[:8]
        self._node, self._topic = node, f"{node.get_fully_qualified_name()}/track/_action/feedback"
        self._began = self._looked = time.monotonic()
        self._known: set[bytes] = set()
        self._signed: set[bytes] = set()
        self._others: set[bytes] = set()  # listeners whose names are known, and are not the client's

    def gone(self) -> bool:
        """Whether nobody is left. Looks at the graph once a second."""
        now = time.monotonic()
        if now - self._looked < LOOK_S and self._looked != self._began:
            return False
        self._looked = now
        infos = self._node.get_subscriptions_info_by_topic(self._topic)
        present = {bytes(info.endpoint_gid) for info in infos}
        for info in infos:  # at any time: on a busy machine a node's name comes seconds after its goal
            if _mark(info.node_namespace, info.node_name) == self._mark:
                self._signed.add(bytes(info.endpoint_gid))
            elif info.node_name != UNKNOWN:
                self._others.add(bytes(info.endpoint_gid))
        if now - self._began < LEARN_S:
            self._known |= present
            return False
        if self._signed:
            return not self._signed & present
        if self._mark.startswith(SIGNED):  # killed before its name came: whoever has none may be the client
            return now - self._began > ALONE_S and not present - self._others
        if not self._known:
            self._known |= present
            return now - self._began > ALONE_S and not present
        return not self._known & present
