"""What several goals of ~/track follow, on the topics together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from molmo_ros.datatypes import Grasp, GraspTarget, ImagePoint, Pose, TargetStatus
from molmo_ros.ros.live import Followed, joined
from molmo_ros.ros.messages import target_message

POSE = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))


def target(label: str, confidence: float, quality: float, status: TargetStatus) -> GraspTarget:
    point = ImagePoint(1.0, 2.0, label, confidence=confidence)
    return GraspTarget(point, status, "", "camera", 5, grasp=Grasp(POSE, POSE, 0.05, quality))


def followed(query: str, *targets: GraspTarget) -> Followed:
    messages = [target_message(t, "camera", 0.0) for t in targets]
    return Followed(query, f"{query}!", "camera", "camera", 5, targets, messages)


def test_targets_of_all_goals_are_best_first() -> None:
    """Whoever takes the first target takes the best one, however the goals began."""
    ok, wide = TargetStatus.OK, TargetStatus.TOO_WIDE
    first = followed("mugs", target("sure, bad grasp", 0.9, 0.2, ok), target("too wide", 0.99, 0.9, wide))
    second = followed("bowl", target("less sure, good grasp", 0.8, 0.9, ok), target("middle", 0.5, 0.6, ok))
    message = joined(second, [first, second])
    labels = [t.point.label for t in message.targets]
    assert labels == ["less sure, good grasp", "middle", "sure, bad grasp", "too wide"]
    assert (message.query, message.answer) == ("mugs; bowl", "mugs!; bowl!")


def test_unknown_confidence_does_not_upset_the_order() -> None:
    """A server that tells no probabilities gives NaN, which compares with nothing."""
    ok = TargetStatus.OK
    known, unknown = target("known", 0.9, 0.5, ok), target("unknown", math.nan, 0.8, ok)
    for some in ([known, unknown, replace(known)], [unknown, known, replace(known)]):
        labels = [t.point.label for t in joined(followed("it", *some), [followed("it", *some)]).targets]
        assert labels == ["unknown", "known", "known"]
