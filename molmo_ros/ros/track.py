"""The action ~/track: find with the model, then follow with the camera.

Several goals run side by side, each for itself, up to ``max_tracks``; a new goal ends none that runs. Whoever
wants to follow something else cancels the old goal. A goal waits in a thread of the executor, so the executor
needs one for each.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from molmo_ros.action import Track
from molmo_ros.config import NodeConfig
from molmo_ros.datatypes import Answer, Array, GraspTarget, Grounding, RgbdFrame, TargetStatus
from molmo_ros.errors import (
    BusyError,
    CancelledError,
    FrameError,
    LostError,
    MolmoRosError,
    ParameterError,
    TransformError,
)
from molmo_ros.pipeline import moved
from molmo_ros.prompt import clean_query
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.engine import Engine
from molmo_ros.ros.messages import target_array
from molmo_ros.ros.outputs import Outputs
from molmo_ros.ros.tf import TransformLookup
from molmo_ros.ros.worker import Job, Worker
from molmo_ros.track import Tracked, Tracker
from molmo_ros.track_patch import Seed
from molmo_ros.track_view import View, make_view
from molmo_ros.transforms import invert

POLL_S = 0.004  # between two looks for a new frame
QUIET_S = 0.5  # without a frame, feedback comes this often
RETRY_S = 0.5  # between two attempts of the model while nothing is seen
MAX_VIEWS = 30  # that an answer is carried through; beyond, every other one is left out


@dataclass(frozen=True)
class TrackQuery:
    """A checked goal; duration_s 0: until cancelled."""

    text: str
    camera: CameraInput
    target_frame: str
    duration_s: float
    period_s: float


class Tracking:
    """The action server."""

    def __init__(
        self,
        node: Node,
        config: Callable[[], NodeConfig],
        cameras: Mapping[str, CameraInput],
        engine: Engine,
        worker: Worker,
        transforms: TransformLookup,
        outputs: Outputs,
    ) -> None:
        self.config, self.engine, self.worker = config, engine, worker
        self.transforms, self.outputs = transforms, outputs
        self.logger = node.get_logger()
        self.closed = threading.Event()
        self._cameras = cameras
        self._lock = threading.Lock()
        self._running = 0
        self._server = ActionServer(
            node,
            Track,
            "~/track",
            self._execute,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=ReentrantCallbackGroup(),
        )

    def close(self) -> None:
        """End all goals, then the server."""
        self.closed.set()
        give_up = time.monotonic() + 2.0
        while self._running and time.monotonic() < give_up:
            time.sleep(POLL_S)
        self._server.destroy()

    def _execute(self, goal: Any) -> Any:
        """Run one goal to its end; nothing is raised."""
        session: _Session | None = None
        try:
            self._enter()
            try:
                self.engine.grounder()  # whether the node is ready is told first
                session = _Session(self, goal, self._query(goal.request))
                session.run()
            finally:
                self._leave()
            goal.succeed()
            return _result(session, "", "followed to the end")
        except Exception as error:
            return self._fail(goal, session, error)

    def _fail(self, goal: Any, session: _Session | None, error: Exception) -> Any:
        if isinstance(error, MolmoRosError):
            code, text = error.code, str(error)
        else:
            self.logger.error("a track failed: " + "".join(traceback.format_exception(error)))
            code, text = "ERROR", f"Internal error: {type(error).__name__}: {error}. The node's log has more."
        self.logger.info(f"a track ended ({code}): {text}")
        if goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return _result(session, code, text)

    def _enter(self) -> None:
        limit = self.config().max_tracks
        with self._lock:
            if self._running >= limit:
                raise BusyError(f"Busy: {self._running} tracks run already; cancel one, or raise max_tracks.")
            self._running += 1

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1

    def _query(self, goal: Any) -> TrackQuery:
        config = self.config()
        if not (0.0 <= goal.duration_s < np.inf and 0.0 <= goal.rate_hz < np.inf):
            raise ParameterError(
                f"duration_s is {goal.duration_s:g} and rate_hz {goal.rate_hz:g}; give 0 or more."
            )
        if goal.camera and goal.camera not in self._cameras:
            known = ", ".join(repr(camera) for camera in self._cameras)
            raise FrameError(f"There is no camera {goal.camera[:64]!r}; this node has {known}.")
        return TrackQuery(
            text=clean_query(goal.query, config.max_query_chars),
            camera=self._cameras[goal.camera] if goal.camera else next(iter(self._cameras.values())),
            target_frame=goal.target_frame or config.target_frame,
            duration_s=float(goal.duration_s),
            period_s=1.0 / goal.rate_hz if goal.rate_hz > 0 else 0.0,
        )


class _Session:
    """One goal: a tracker, at most one question to the model at a time, and the views since it was asked."""

    def __init__(self, tracking: Tracking, goal: Any, query: TrackQuery) -> None:
        self._all, self._goal, self._query = tracking, goal, query
        self._tracker = Tracker()
        self._job: Job[Grounding] | None = None
        self._views: list[View] = []
        self._T_asked: Array | None = None
        self._asked = 0.0
        self._answered = False
        self._answer = ""
        self._started = self._framed = self._seen = time.monotonic()
        self._told = 0.0
        self._stamp_ns = -1
        self.targets: list[Any] = []

    def run(self) -> None:
        """Follow until the time is over.

        Raises: CancelledError, LostError, FrameError if the camera is silent, and what the model raises.
        """
        try:
            while not self._over():
                config = self._all.config()
                began = time.monotonic()
                frame = self._query.camera.newer_frame(self._stamp_ns, config)
                if frame is None:
                    self._without_frame(config)
                    time.sleep(POLL_S)
                    continue
                self._framed, self._stamp_ns = began, frame.stamp_ns
                self._step(frame, config)
                time.sleep(max(0.0, 0.9 / config.track_rate_hz - (time.monotonic() - began)))
        finally:
            if self._job is not None:
                self._job.cancel()

    def _over(self) -> bool:
        if self._all.closed.is_set():
            raise CancelledError("The node is shutting down.")
        if self._goal.is_cancel_requested:
            raise CancelledError("The goal was cancelled.")
        self._all.engine.grounder()  # raises if the node was deactivated
        now = time.monotonic()
        if 0 < self._query.duration_s <= now - self._started:
            if not self._following:
                raise self._lost_error()
            return True
        if now - self._seen > self._all.config().track_lost_s:
            raise self._lost_error()
        return False

    @property
    def _following(self) -> bool:
        return any(not t.lost for t in self._tracker.targets()) if self._answered else False

    def _lost_error(self) -> LostError:
        since = time.monotonic() - self._seen
        if not self._answered:
            return LostError("The model has not answered in time; give the goal a longer duration_s.")
        return LostError(
            f"{self._query.text!r} has not been seen for {since:.1f} s; bring it into view, name it "
            "otherwise, or raise track_lost_s."
        )

    def _without_frame(self, config: NodeConfig) -> None:
        now = time.monotonic()
        if now - self._framed > max(config.frame_wait_s, config.max_frame_age_s):
            problem = self._query.camera.problem(config)
            raise FrameError(problem or "The camera has sent no usable frame; check its clock and rate.")
        if now - max(self._told, self._framed) > QUIET_S:
            age_s = self._query.camera.age_s(self._stamp_ns) if self._stamp_ns >= 0 else float("nan")
            self._feedback("waiting", [], age_s)

    def _step(self, frame: RgbdFrame, config: NodeConfig) -> None:
        """One new frame: follow, take the model's answer if there is one, ask again if due, publish."""
        view = make_view(frame)
        if self._answered:
            self._tracker.update(view)
        if self._job is not None:
            self._views = _thinned([*self._views, view])
            if self._job.done:
                self._take()
        if self._following or not self._answered:  # the time that the model takes is bounded by timeout_s
            self._seen = time.monotonic()
        T = self._transform(frame, config)
        if self._job is None and self._due(config):
            self._ask(frame, view, T if isinstance(T, np.ndarray) else None, config)
        self._publish(frame, T)

    def _due(self, config: NodeConfig) -> bool:
        since = time.monotonic() - self._asked
        return since > (config.reground_s if self._following else RETRY_S)

    def _ask(self, frame: RgbdFrame, view: View, T: Array | None, config: NodeConfig) -> None:
        """Queue the question; the first one as any query, later ones when nobody else waits."""
        query, engine = self._query, self._all.engine
        self._asked, self._T_asked = time.monotonic(), T

        def work(job: Job[Grounding]) -> Grounding:
            return engine.grounder().grasp(
                frame,
                query.text,
                T_target_camera=T,
                target_frame=query.target_frame,
                max_targets=config.max_targets or None,
                should_stop=job.should_stop,
            )

        try:
            self._job = self._all.worker.submit(work, config.timeout_s, background=self._answered)
            self._views = [view]
        except BusyError:  # asked again at the next chance; the stage says "waiting"
            self._job = None

    def _take(self) -> None:
        """Carry the answer through the views since. Raises: what the model did, unless it follows."""
        assert self._job is not None
        job, views, self._job, self._views = self._job, self._views, None, []
        try:
            grounding = job.result()
        except MolmoRosError as error:
            if not self._following and not isinstance(error, CancelledError):
                raise
            self._all.logger.warning(f"a track goes on without a new answer ({error.code}): {error}")
            return
        seeds = [_seed(target, self._T_asked) for target in grounding.targets]
        self._tracker.correct(views, seeds)
        self._answered, self._answer = True, grounding.answer.text
        self._asked = time.monotonic()

    def _transform(self, frame: RgbdFrame, config: NodeConfig) -> Array | TransformError | None:
        """T_target_camera at the stamp of the frame, None if none is wanted, or why there is none."""
        try:
            return self._all.transforms.lookup(
                self._query.target_frame, frame.frame_id, frame.stamp_ns, config.tf_wait_s
            )
        except TransformError as error:
            return error

    def _publish(self, frame: RgbdFrame, T: Array | TransformError | None) -> None:
        now = time.monotonic()
        if now - self._told < 0.9 * self._query.period_s:
            return
        frame_id = frame.frame_id if T is None or isinstance(T, TransformError) else self._query.target_frame
        seen = [t for t in self._tracker.targets() if not t.lost] if self._answered else []
        targets = [_target(t, frame, T, self._query.target_frame) for t in seen]
        targets.sort(key=lambda t: (t.status is not TargetStatus.OK, -t.point.confidence))
        grounding = Grounding(self._query.text, Answer(self._answer), tuple(targets))
        age_s = max(0.0, self._query.camera.age_s(frame.stamp_ns))
        message = target_array(grounding, frame_id, frame.frame_id, frame.stamp_ns, age_s)
        if self._answered:
            self._all.outputs.publish_targets(message)
            self._all.outputs.publish_markers(targets, frame_id, frame.stamp_ns)
        self._feedback(self._stage(bool(seen)), message.targets, age_s)

    def _stage(self, seen: bool) -> str:
        if seen:
            return "following"
        if self._answered:
            return "lost"
        return "waiting" if self._job is None else "grounding"

    def _feedback(self, stage: str, targets: list[Any], age_s: float) -> None:
        self._told, self.targets = time.monotonic(), targets
        self._goal.publish_feedback(Track.Feedback(stage=stage, targets=targets, age=float(age_s)))


def _thinned(views: list[View]) -> list[View]:
    """At most MAX_VIEWS, with the first and the last."""
    return views if len(views) <= MAX_VIEWS else [*views[:-1:2], views[-1]]


def _seed(target: GraspTarget, T_target_camera: Array | None) -> Seed:
    """What the tracker follows: the target in the optical frame, where it was seen."""
    if T_target_camera is not None:
        target = moved(target, invert(T_target_camera), "")
    mask = None if target.segment is None else target.segment.mask
    return Seed(target.point, mask, replace(target, segment=None))


def _target(
    tracked: Tracked, frame: RgbdFrame, T: Array | TransformError | None, target_frame: str
) -> GraspTarget:
    """The target that the model's answer gave, moved to where the object is now."""
    assert tracked.seed.target is not None
    target = moved(tracked.seed.target, tracked.T_now_then, frame.frame_id)
    point = replace(target.point, x=tracked.x, y=tracked.y, instance=tracked.instance)
    target = replace(target, point=point, stamp_ns=frame.stamp_ns)
    if isinstance(T, TransformError):
        return replace(target, status=TargetStatus.NO_TRANSFORM, status_text=str(T))
    return target if T is None else moved(target, T, target_frame)


def _result(session: _Session | None, code: str, text: str) -> Any:
    targets = [] if session is None else session.targets
    return Track.Result(success=not code, message=text, code=code, targets=targets)
