"""What the worker's thread does with one query: frame, transform, model, targets, topics."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from molmo_ros.checkpoint.query import Query
from molmo_ros.datatypes import Answer, Array, Grounding, RgbdFrame, ShouldStop, TargetStatus
from molmo_ros.errors import AnswerError, CancelledError
from molmo_ros.msg import GraspTargetArray
from molmo_ros.perception.rectify import raw_grounding
from molmo_ros.recording.saved import AnsweredQuery
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.context import NodeContext
from molmo_ros.ros.messages import target_array
from molmo_ros.ros.worker import Job


@dataclass(frozen=True)
class GroundQuery:
    """A checked request, with all defaults filled in.

    stamp_ns 0: the newest frame; max_targets None: no limit.
    """

    query: Query
    camera: CameraInput
    stamp_ns: int
    target_frame: str
    max_targets: int | None
    grasp: bool
    timeout_s: float


@dataclass(frozen=True)
class AskQuery:
    """A checked free prompt."""

    question: Query
    camera: CameraInput
    stamp_ns: int
    max_tokens: int
    timeout_s: float


class Answering:
    """Runs in the worker's thread."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._logger = context.node.get_logger()

    def ground(self, job: Job[GraspTargetArray], query: GroundQuery, config: NodeConfig) -> GraspTargetArray:
        """Answer a query, publish the targets, hand them to the caller, then publish what people look at.

        Raises: any MolmoRosError; CancelledError between two steps of the model when the time is over.
        """
        started = time.perf_counter()
        frame = _frame(query, config, job.should_stop)
        framed = time.perf_counter()
        # Before the model runs: a long generation can outlast the tf buffer.
        T = self._context.transforms.lookup(
            query.target_frame, frame.frame_id, frame.stamp_ns, config.tf_wait_s
        )
        up = T[2, :3] if T is not None and query.target_frame in config.upright_frames else None
        try:
            found = self._grounding(job, query, frame, T)
        except AnswerError as error:
            self._context.saving.note(AnsweredQuery(query.query.text, frame, error=error, up=up))
            raise
        self._context.guard.permit(
            query.query.text,
            frame,
            found,
            self._context.model.grounder(),
            config,
            job.should_stop,
        )
        if job.should_stop():  # its caller has been told so: no robot may be sent there now
            raise CancelledError("The query was given up before its targets were published.")
        frame_id = query.target_frame or frame.frame_id
        age_s = query.camera.age_s(frame.stamp_ns)
        limited = self._context.guard.enforce(found.targets, frame_id, frame.stamp_ns, abs(age_s), config)
        usable_first = sorted(limited, key=lambda target: target.status is not TargetStatus.OK)
        grounding = replace(found, targets=tuple(usable_first[: query.max_targets]))
        told = raw_grounding(grounding, frame.lens)
        targets = target_array(told, frame_id, frame.frame_id, frame.stamp_ns, max(0.0, age_s))
        self._context.outputs.publish_targets(targets)
        job.deliver(targets)
        total_ms = (time.perf_counter() - started) * 1e3
        self._context.latency.add(
            {"frame": (framed - started) * 1e3, **grounding.stages_ms, "total": total_ms}
        )
        self._logger.info(f'"{query.query.text}": {_found(grounding)}, {total_ms:.0f} ms')
        self._context.outputs.publish_views(frame, grounding, frame_id)
        self._context.saving.note(AnsweredQuery(query.query.text, frame, grounding, up=up))
        return targets

    def _grounding(
        self, job: Job[GraspTargetArray], query: GroundQuery, frame: RgbdFrame, T: Array | None
    ) -> Grounding:
        grounder = self._context.model.grounder()
        way = grounder.grasp if query.grasp else grounder.locate
        return way(
            frame,
            query.query,
            T_target_camera=T,
            target_frame=query.target_frame,
            should_stop=job.should_stop,
        )

    def ask(
        self, job: Job[tuple[RgbdFrame, Answer]], query: AskQuery, config: NodeConfig
    ) -> tuple[RgbdFrame, Answer]:
        """Answer a free prompt. Raises: as ``ground``."""
        started = time.perf_counter()
        frame = _frame(query, config, job.should_stop)
        answer = self._context.model.grounder().ask(
            frame.rgb, query.question, max_tokens=query.max_tokens, should_stop=job.should_stop
        )
        total_ms = (time.perf_counter() - started) * 1e3
        self._context.latency.add({**answer.stages_ms, "total": total_ms})
        self._logger.info(f'"{query.question.text}": {answer.text!r}, {total_ms:.0f} ms')
        return frame, answer


def _found(grounding: Grounding) -> str:
    """For the log: "1 target", "2 targets (TOO_WIDE)", "not there"."""
    targets = grounding.targets
    if not targets:
        return "not there"
    refused = ", ".join(t.status.name for t in targets if t.status is not TargetStatus.OK)
    count = f"{len(targets)} target{'s' if len(targets) > 1 else ''}"
    return f"{count} ({refused})" if refused else count


def _frame(query: GroundQuery | AskQuery, config: NodeConfig, should_stop: ShouldStop) -> RgbdFrame:
    """The frame that a query is about; the model caches those that it has answered about."""
    if query.stamp_ns:
        return query.camera.frame_at(query.stamp_ns, config)
    return query.camera.newest_frame(config, should_stop)
