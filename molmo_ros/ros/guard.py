"""Between "a point was found" and "a target is published": the policy, the limits, and the lease."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Empty

from molmo_ros.datatypes import (
    Array,
    GraspTarget,
    Grounding,
    ImagePoint,
    RgbdFrame,
    ShouldStop,
    TargetStatus,
)
from molmo_ros.errors import AnswerError, DepthError, PolicyError, TransformError
from molmo_ros.limits import Limits, enforce, parse_boxes
from molmo_ros.perception.lift import lift_point
from molmo_ros.policy.judge import SILENT, Judge
from molmo_ros.policy.policy import Circumstances, Decision, Policy, Verdict
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.tf import TransformLookup

if TYPE_CHECKING:
    from molmo_ros.pipeline import Grounder

# What Molmo is asked about people, and what it means if one is found near a target; the strictest first.
QUESTIONS = (("the children", "child"), ("the hands", "hand"), ("the people", "near"))

NOTHING_SPEAKS = Decision(Verdict.ALLOW, "default", "There is no policy.")


class Guard:
    """One for a node. ``permit`` and ``enforce`` are called by the worker and by tracks."""

    def __init__(self, node: Node, config: NodeConfig, transforms: TransformLookup) -> None:
        self._node, self._transforms = node, transforms
        self.policy = Policy.load(config.policy) if config.policy else None
        self.judge = _judge(config) if config.judge_url else None
        self._renewed = float("-inf")
        limits_of(config)  # a wrong parameter is reported at the start
        node.create_subscription(Empty, "~/lease", self._renew, 1)

    def permit(
        self,
        query: str,
        frame: RgbdFrame,
        grounding: Grounding,
        grounder: Grounder,
        config: NodeConfig,
        should_stop: ShouldStop,
    ) -> None:
        """Ask the policy and the judge, if there are any. Advice, not a safety function.

        Raises: PolicyError with rule and text, for "ask" as well: the code tells the two apart.
        """
        if (self.policy is None and self.judge is None) or not grounding.targets:
            return
        people = "no"
        if config.policy_people:
            people = _people(frame, grounding, grounder, config.policy_near, should_stop)
        labels = tuple(dict.fromkeys(target.point.label for target in grounding.targets))
        seen = Circumstances(labels, people)
        decision = NOTHING_SPEAKS if self.policy is None else self.policy.decide(query, seen)
        if self.judge is not None:
            decision = self.judge.tighten(decision, query, seen, should_stop)
        name = "none" if self.policy is None else self.policy.name
        picture = hashlib.sha256(frame.rgb.tobytes()).hexdigest()[:16]
        verdict = decision.verdict.name.lower()
        self._node.get_logger().info(
            f"policy {name}: {verdict} by rule {decision.rule!r} {dict(decision.matched)} for "
            f"{query!r}, people {people}, image sha256 {picture}"
        )
        if decision.verdict is Verdict.ALLOW:
            return
        raise PolicyError(
            f"{decision.text} (rule {decision.rule} of policy {name} says {verdict}"
            + ("; ask a person.)" if decision.verdict is Verdict.ASK else ".)"),
            asks=decision.verdict is Verdict.ASK,
            silent=decision.rule == SILENT,
        )

    def enforce(
        self, targets: Sequence[GraspTarget], frame_id: str, stamp_ns: int, age_s: float, config: NodeConfig
    ) -> tuple[GraspTarget, ...]:
        """The targets in frame_id, in their order, with the limits applied; the very last step."""
        limits = limits_of(config)
        try:
            T = self._transforms.lookup(limits.frame, frame_id, stamp_ns, config.tf_wait_s)
        except TransformError as error:
            text = f"Whether the limits are kept is not known: {error}"
            return tuple(
                replace(target, status=TargetStatus.NO_TRANSFORM, status_text=text)
                if target.status is TargetStatus.OK
                else target
                for target in targets
            )
        return enforce(targets, limits, age_s=age_s, T_limits_target=T, leased=self._leased(config))

    def _leased(self, config: NodeConfig) -> bool:
        return config.lease_s == 0 or time.monotonic() - self._renewed <= config.lease_s

    def _renew(self, _: Empty) -> None:
        self._renewed = time.monotonic()


def _judge(config: NodeConfig) -> Judge:
    """Raises: ParameterError if the address cannot be one."""
    from molmo_ros.runtimes.remote.words import RemoteWords  # HTTP, which few nodes need

    server = RemoteWords(config.judge_url, config.judge_model, config.judge_timeout_s, config.judge_key_env)
    discretionary = Verdict[config.judge_discretionary.upper()]
    return Judge(server.ask, config.judge_form, discretionary, config.judge_silence_refuses)


def limits_of(config: NodeConfig) -> Limits:
    """The limits that the parameters set. Raises: ParameterError for invalid boxes."""
    workspace = parse_boxes([config.workspace], "workspace")
    return Limits(
        frame=config.limits_frame,
        workspace=workspace[0] if workspace else None,
        keep_out=parse_boxes(config.keep_out, "keep_out"),
        max_sigma_m=config.max_sigma or math.inf,
        max_age_s=config.max_target_age_s,
        min_confidence=config.min_confidence,
        min_quality=config.min_quality,
        max_targets=config.limit_targets,
    )


def _people(
    frame: RgbdFrame, grounding: Grounding, grounder: Grounder, near_m: float, should_stop: ShouldStop
) -> str:
    """Who is within ``near_m`` of a target, as the model points and the depth measures.

    A point without depth may be anywhere, so it counts as near; so does an answer that makes no sense.
    """
    places = [t.segment.cloud_m.mean(axis=0) for t in grounding.targets if t.segment is not None]
    places += [place for point in grounding.answer.points if (place := _place(frame, point)) is not None]
    for question, meaning in QUESTIONS:
        try:
            found = grounder.point(frame.rgb, question, should_stop=should_stop).points
        except AnswerError:
            return "near"
        for person in (_place(frame, point) for point in found):
            if person is None or not places:
                return meaning
            if min(float(np.linalg.norm(person - place)) for place in places) <= near_m:
                return meaning
    return "no"


def _place(frame: RgbdFrame, point: ImagePoint) -> Array | None:
    """Where a point is (3,) m in the optical frame; None without depth."""
    try:
        return lift_point(frame, point).position
    except DepthError:
        return None
