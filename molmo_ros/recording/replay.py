"""A query on every Nth frame of a recording; in between, its targets are tracked if requested."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from molmo_ros.checkpoint.query import Query, parse_query
from molmo_ros.datatypes import Answer, Array, GraspTarget, Grounding, RgbdFrame
from molmo_ros.errors import MolmoRosError
from molmo_ros.pipeline import Grounder
from molmo_ros.recording.bag import Bag, BagTopics
from molmo_ros.track.target import seed_of, target_now
from molmo_ros.track.tracker import Tracked, Tracker
from molmo_ros.track.view import make_view
from molmo_ros.transforms import transform_target


@dataclass(frozen=True)
class Replayed:
    """The result of one frame; ``asked``: from the model, not from tracking. ``found`` is None after an
    error.

    T_target_camera (4,4): the camera in target_frame, that of the targets; None and "": the optical frame.
    """

    number: int
    stamp_ns: int
    asked: bool
    frame: RgbdFrame | None = None
    found: Grounding | None = None
    error: MolmoRosError | None = None
    T_target_camera: Array | None = None
    target_frame: str = ""


class Replay:
    """The node's pipeline over a bag. target_frame "": targets stay in the camera's optical frame."""

    def __init__(
        self, grounder: Grounder, query: str | Query, every: int, track: bool, target_frame: str = ""
    ) -> None:
        self._grounder, self._query, self._every = grounder, parse_query(query), every
        self._target_frame = target_frame
        self._tracker = Tracker() if track else None

    def run(self, bag: Bag, topics: BagTopics, slop_s: float) -> Iterator[Replayed]:
        """One result for each frame that was asked about or followed. Raises: FrameError, as `Bag.frames`."""
        for number, (stamp_ns, frame) in enumerate(bag.frames(topics, slop_s)):
            asked = number % self._every == 0
            if not asked and self._tracker is None:
                continue
            try:
                if isinstance(frame, MolmoRosError):
                    raise frame
                T = self._transform(bag, frame.frame_id, stamp_ns)
                found = self.ask(frame, T) if asked else self.follow(frame, T)
                target_frame = "" if T is None else self._target_frame
                yield Replayed(number, stamp_ns, asked, frame, found, None, T, target_frame)
            except MolmoRosError as error:
                yield Replayed(number, stamp_ns, asked, error=error)

    def _transform(self, bag: Bag, camera_frame: str, stamp_ns: int) -> Array | None:
        """T_target_camera (4,4), None if no target frame is wanted."""
        wanted = self._target_frame
        return bag.transforms.lookup(wanted, camera_frame, stamp_ns) if wanted else None

    def ask(self, frame: RgbdFrame, T: Array | None = None) -> Grounding:
        """Ask the model; what it finds is followed from here on. T: T_target_camera (4,4)."""
        found = self._grounder.grasp(
            frame, self._query, T_target_camera=T, target_frame=self._target_frame if T is not None else ""
        )
        if self._tracker is not None:
            seeds = [seed_of(target, T) for target in found.targets]
            tracked = self._tracker.correct([make_view(frame)], seeds)
            numbers = {id(t.seed.point): t.instance for t in tracked}
            return replace(found, targets=tuple(_numbered(t, numbers) for t in found.targets))
        return found

    def follow(self, frame: RgbdFrame, T: Array | None = None) -> Grounding:
        """Where the targets of the last answer are now; only with ``track``."""
        assert self._tracker is not None
        start = time.perf_counter()
        seen = [t for t in self._tracker.update(make_view(frame)) if not t.lost]
        targets = tuple(self._target(t, frame, T) for t in seen)
        stages = {"track": 1e3 * (time.perf_counter() - start)}
        return Grounding(self._query.text, Answer("", tuple(t.point for t in targets)), targets, stages)

    def _target(self, tracked: Tracked, frame: RgbdFrame, T: Array | None) -> GraspTarget:
        """Without the mask of the image that was asked about: it would be drawn where the object was then."""
        target = replace(target_now(tracked, frame.frame_id, frame.stamp_ns), segment=None)
        return target if T is None else transform_target(target, T, self._target_frame)


def _numbered(target: GraspTarget, numbers: dict[int, int]) -> GraspTarget:
    """With the number by which the tracker knows it; a point that it could not track keeps its own."""
    instance = numbers.get(id(target.point), target.point.instance)
    return replace(target, point=replace(target.point, instance=instance))
