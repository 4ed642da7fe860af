"""Targets as the page shows them: the keys of ``--json``, and the ellipsoid of the covariance as axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from molmo_ros.as_json import target_keys, to_plain
from molmo_ros.datatypes import Array, GraspTarget, TargetStatus
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.transforms import quaternion_from_matrix

SIGMAS = 2.0  # of the ellipsoid that is drawn, as in RViz


def answer_message(
    query: str, answer: str, targets: Sequence[GraspTarget], frame_id: str, stamp_ns: int
) -> dict[str, Any]:
    """All of an answer; stamps are text, since JavaScript's numbers cannot hold nanoseconds."""
    return {
        "query": query,
        "answer": answer,
        "frame_id": frame_id,
        "stamp_ns": str(stamp_ns),
        "targets": [shown(target) for target in targets],
    }


def shown(target: GraspTarget) -> dict[str, Any]:
    """One target; ``limited``: it is known well enough, but one of the node's limits forbids using it."""
    keys: dict[str, Any] = to_plain(target_keys(target))
    keys["stamp_ns"] = str(target.stamp_ns)
    keys["limited"] = target.status >= TargetStatus.OUT_OF_WORKSPACE
    keys["ellipsoid"] = None if target.covariance is None else ellipsoid(target.covariance)
    return keys


def ellipsoid(covariance: Array) -> dict[str, list[float]] | None:
    """Half axes (3,) m of the SIGMAS ellipsoid, and its orientation xyzw; None if that is unknown."""
    if not np.isfinite(covariance).all():
        return None
    variances, axes = np.linalg.eigh(covariance)
    if np.linalg.det(axes) < 0:
        axes[:, 0] *= -1
    radii = SIGMAS * np.sqrt(np.maximum(variances, 0.0))
    return {"radii": radii.tolist(), "orientation": quaternion_from_matrix(axes).tolist()}


def gripper_message(gripper: Gripper) -> dict[str, Any]:
    """Sizes in m from which the page draws the hand."""
    return {
        "name": gripper.name,
        "finger": [gripper.finger_width, gripper.finger_thickness, gripper.finger_length],
        "palm": list(gripper.palm),
        "max_opening": gripper.max_opening,
    }


def outcome(targets: Sequence[GraspTarget]) -> str:
    """For the history: "1 target", "2 targets (TOO_WIDE)", "not there"."""
    if not targets:
        return "not there"
    refused = ", ".join(t.status.name for t in targets if t.status is not TargetStatus.OK)
    count = f"{len(targets)} target{'s' if len(targets) > 1 else ''}"
    return f"{count} ({refused})" if refused else count
