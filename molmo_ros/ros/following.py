"""One goal of ~/track: track in every frame, ask the model now and then, publish."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from molmo_ros.action import Track
from molmo_ros.checkpoint.query import Query
from molmo_ros.datatypes import Array, GraspTarget, RgbdFrame, TargetStatus
from molmo_ros.errors import (
    CancelledError,
    FrameError,
    LostError,
    MolmoRosError,
    PolicyError,
    TransformError,
)
from molmo_ros.perception.rectify import raw_target
from molmo_ros.pipeline import rank
from molmo_ros.ros.callers import Callers
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.context import NodeContext
from molmo_ros.ros.live import Followed, LiveTargets
from molmo_ros.ros.messages import target_message
from molmo_ros.ros.question import Question
from molmo_ros.track.target import target_now
from molmo_ros.track.tracker import Tracked, Tracker
from molmo_ros.track.view import make_view
from molmo_ros.transforms import transform_target

POLL_S = 0.004  # between two looks for a new frame
QUIET_S = 0.5  # without a frame, feedback comes this often
RETRY_S = 0.5  # between two attempts of the model while nothing is seen
PACE = 0.75  # of the period: a frame that arrives a little early still counts


@dataclass(frozen=True)
class TrackQuery:
    """A checked goal; duration_s 0: until cancelled."""

    query: Query
    camera: CameraInput
    target_frame: str
    duration_s: float
    period_s: float


@dataclass(frozen=True)
class Shared:
    """What all goals share: the node, what they publish together, numbers for their targets, and the end."""

    context: NodeContext
    live: LiveTargets
    numbers: Iterator[int]
    closed: threading.Event


class Following:
    """Follows until it is over; ``run`` in the goal's thread, ``cancel`` from any other."""

    def __init__(self, shared: Shared, goal: Any, query: TrackQuery) -> None:
        self._shared, self._context, self._goal, self._query = shared, shared.context, goal, query
        self._tracker = Tracker(numbers=shared.numbers)
        self._cancelled = threading.Event()
        self._question = Question(self._context, query.query, query.target_frame)
        self._answered = self._found = False
        self._answer = ""
        self._started = self._framed = self._seen = time.monotonic()
        self._told = 0.0
        self._stamp_ns = 0
        self._callers = Callers(self._context.node, bytes(goal.goal_id.uuid))
        self.targets: list[Any] = []

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked it to stop."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Stop, also the model in the middle of its answer; nothing is published from now on."""
        self._cancelled.set()
        self._question.cancel()

    def run(self) -> None:
        """Follow until the time is up.

        Raises: CancelledError, LostError, FrameError if the camera is silent, and what the model raises.
        """
        try:
            while not self._over():
                config = self._context.config()
                step_ns = int(PACE * 1e9 / config.track_rate_hz)
                frame = self._query.camera.newer_frame(self._stamp_ns, step_ns, config)
                if frame is None:
                    self._without_frame(config)
                    self._cancelled.wait(POLL_S)
                    continue
                if frame.stamp_ns < self._stamp_ns:
                    self._start_over()
                self._framed, self._stamp_ns = time.monotonic(), frame.stamp_ns
                self._step(frame, config)
        finally:
            self._shared.live.leave(self)
            self._question.cancel()

    def _start_over(self) -> None:
        """The clock has jumped back: what is known is no longer valid."""
        self._context.node.get_logger().warning("the camera's clock jumped back; a track starts over")
        self._question.forget()
        self._tracker, self._answered = Tracker(numbers=self._shared.numbers), False
        self._shared.live.leave(self)

    def _over(self) -> bool:
        if self._shared.closed.is_set():
            raise CancelledError("The node is shutting down.")
        if self._cancelled.is_set() or self._goal.is_cancel_requested:
            raise CancelledError("The goal was cancelled.")
        if self._callers.gone():
            raise CancelledError("Nobody listens to this goal any more: its client has ended without a word.")
        self._context.model.grounder()  # raises if the node was deactivated
        now = time.monotonic()
        if 0 < self._query.duration_s <= now - self._started:
            if not self._following:
                raise self._lost_error()
            return True
        if now - self._seen > self._context.config().track_lost_s:
            raise self._lost_error()
        return False

    @property
    def _following(self) -> bool:
        return any(not t.lost for t in self._tracker.targets()) if self._answered else False

    def _lost_error(self) -> LostError:
        since = time.monotonic() - self._seen
        if not self._answered:
            return LostError("The model has not answered in time; give the goal a longer duration_s.")
        if not self._found:
            return LostError(
                f"{self._query.query.text!r} was not found in {since:.1f} s; bring it into view, name it "
                "otherwise, or raise track_lost_s."
            )
        return LostError(
            f"{self._query.query.text!r} has not been seen for {since:.1f} s; bring it into view, name it "
            "otherwise, or raise track_lost_s."
        )

    def _without_frame(self, config: NodeConfig) -> None:
        now = time.monotonic()
        if now - self._framed > max(config.frame_wait_s, config.max_frame_age_s):
            problem = self._query.camera.problem(config)
            raise FrameError(problem or "The camera has sent no usable frame; check its clock and rate.")
        if now - max(self._told, self._framed) > QUIET_S:
            age_s = self._query.camera.age_s(self._stamp_ns) if self._stamp_ns else float("nan")
            self._feedback("waiting", [], age_s)

    def _step(self, frame: RgbdFrame, config: NodeConfig) -> None:
        """One new frame: follow, take the model's answer if there is one, ask again if due, publish."""
        view = make_view(frame)
        if self._answered:
            self._tracker.update(view)
        if self._question.open:
            self._question.add(view)
        if self._question.answered:
            self._take()
        if self._following or not self._answered:  # the model's time is bounded by timeout_s
            self._seen = time.monotonic()
        T = self._transform(frame, config)
        if not self._question.open and self._due(config):
            known = T if isinstance(T, np.ndarray) else None
            self._question.ask(frame, view, known, self._answered, config)
        self._publish(frame, T)

    def _due(self, config: NodeConfig) -> bool:
        return self._question.since_s > (config.reground_s if self._following else RETRY_S)

    def _take(self) -> None:
        """Propagate the answer through the views since. Raises: what the model raised, unless something is
        followed."""
        try:
            views, seeds, self._answer = self._question.take()
        except PolicyError:
            raise
        except MolmoRosError as error:
            if not self._following and not isinstance(error, CancelledError):
                raise
            self._context.node.get_logger().warning(
                f"a track goes on without a new answer ({error.code}): {error}"
            )
            return
        self._tracker.correct(views, seeds)
        self._answered = True

    def _transform(self, frame: RgbdFrame, config: NodeConfig) -> Array | TransformError | None:
        """T_target_camera at the stamp of the frame, None if none is wanted, or why there is none."""
        try:
            return self._context.transforms.lookup(
                self._query.target_frame, frame.frame_id, frame.stamp_ns, config.tf_wait_s
            )
        except TransformError as error:
            return error

    def _publish(self, frame: RgbdFrame, T: Array | TransformError | None) -> None:
        if time.monotonic() - self._told < 0.9 * self._query.period_s:
            return
        frame_id = frame.frame_id if T is None or isinstance(T, TransformError) else self._query.target_frame
        seen = [t for t in self._tracker.targets() if not t.lost] if self._answered else []
        self._found = self._found or bool(seen)
        pairs = [(_target(t, frame, T, self._query.target_frame), _planned_ns(t)) for t in seen]
        signed_s = self._query.camera.age_s(frame.stamp_ns)
        age_s = max(0.0, signed_s)
        pairs.sort(key=lambda pair: rank(pair[0]))
        limited = self._context.guard.enforce(
            [target for target, _ in pairs], frame_id, frame.stamp_ns, abs(signed_s), self._context.config()
        )
        pairs = [(target, planned_ns) for target, (_, planned_ns) in zip(limited, pairs, strict=True)]
        pairs.sort(key=lambda pair: rank(pair[0]))
        messages = [
            target_message(
                raw_target(target, frame.lens),
                frame.frame_id,
                age_s,
                age_s + (frame.stamp_ns - planned_ns) / 1e9,
            )
            for target, planned_ns in pairs
        ]
        if self._cancelled.is_set():
            raise CancelledError("The goal was cancelled.")
        if self._answered:
            followed = Followed(
                query=self._query.query.text,
                answer=self._answer,
                frame_id=frame_id,
                optical_frame=frame.frame_id,
                stamp_ns=frame.stamp_ns,
                targets=tuple(target for target, _ in pairs),
                messages=messages,
            )
            self._shared.live.publish(self, followed)
        self._feedback(self._stage(bool(seen)), messages, age_s)

    def _stage(self, seen: bool) -> str:
        if seen:
            return "following"
        if self._answered:
            return "lost" if self._found else "searching"
        return "grounding" if self._question.open else "waiting"

    def _feedback(self, stage: str, targets: list[Any], age_s: float) -> None:
        self._told, self.targets = time.monotonic(), targets
        self._goal.publish_feedback(Track.Feedback(stage=stage, targets=targets, age=float(age_s)))


def _target(
    tracked: Tracked, frame: RgbdFrame, T: Array | TransformError | None, target_frame: str
) -> GraspTarget:
    target = target_now(tracked, frame.frame_id, frame.stamp_ns)
    if isinstance(T, TransformError):
        return replace(target, status=TargetStatus.NO_TRANSFORM, status_text=str(T))
    return target if T is None else transform_target(target, T, target_frame)


def _planned_ns(tracked: Tracked) -> int:
    """Stamp of the image that the model's answer, and with it the grasp, is about."""
    assert tracked.seed.target is not None
    return tracked.seed.target.stamp_ns
