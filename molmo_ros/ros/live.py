"""The targets of all goals of ~/track, published together: no goal overwrites those of another."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from molmo_ros.datatypes import GraspTarget
from molmo_ros.msg import GraspTargetArray
from molmo_ros.pipeline import rank
from molmo_ros.ros.messages import make_header
from molmo_ros.ros.outputs import Outputs


@dataclass(frozen=True)
class Followed:
    """What one goal sees in its newest frame: targets, and each of them as a message."""

    query: str
    answer: str
    frame_id: str
    optical_frame: str
    stamp_ns: int
    targets: Sequence[GraspTarget]
    messages: Sequence[Any]


class LiveTargets:
    """The newest of each goal; every publication carries the targets of all goals, best first."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._lock = threading.Lock()
        self._followed: dict[object, Followed] = {}

    def publish(self, goal: object, mine: Followed) -> None:
        """Replace what a goal sees, and publish everything; the header is that of this goal's frame."""
        with self._lock:  # held while publishing, or an older state could be published last
            self._followed[goal] = mine
            everything = list(self._followed.values())
            self._outputs.publish_targets(joined(mine, everything))
            targets = [target for followed in everything for target in followed.targets]
            self._outputs.publish_markers(targets, mine.frame_id, mine.stamp_ns)
            same = [f for f in everything if f.optical_frame == mine.optical_frame]
            clouds = [target for followed in same for target in followed.targets]
            self._outputs.publish_points(clouds, mine.optical_frame, mine.stamp_ns)

    def leave(self, goal: object) -> None:
        """A goal has ended: the others go on without it."""
        with self._lock:
            self._followed.pop(goal, None)


def joined(mine: Followed, everything: Sequence[Followed]) -> GraspTargetArray:
    """The targets of all goals, best first, under the header of one; queries in the order of their start."""
    pairs = [pair for f in everything for pair in zip(f.targets, f.messages, strict=True)]
    pairs.sort(key=lambda pair: rank(pair[0]))
    return GraspTargetArray(
        header=make_header(mine.frame_id, mine.stamp_ns),
        query="; ".join(followed.query for followed in everything),
        answer="; ".join(followed.answer for followed in everything),
        targets=[message for _, message in pairs],
    )
