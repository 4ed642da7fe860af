"""A grounding as JSON: the keys that ``molmo-ros ground --json``, saved queries and the web view share."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molmo_ros.datatypes import Grasp, GraspTarget, Grounding, ImagePoint, OrientedBox, Pose


def grounding_keys(grounding: Grounding) -> dict[str, Any]:
    """Return query, answer, points, targets and stages_ms."""
    stages = dict(grounding.stages_ms)
    stages.setdefault("total", sum(stages.values()))
    return {
        "query": grounding.query,
        "answer": grounding.answer.text,
        "points": [point_keys(p) for p in grounding.answer.points],
        "targets": [target_keys(t) for t in grounding.targets],
        "stages_ms": {k: round(v, 2) for k, v in stages.items()},
    }


def point_keys(point: ImagePoint) -> dict[str, Any]:
    """Return a point as in msg/GroundedPoint."""
    return {
        "x": point.x,
        "y": point.y,
        "label": point.label,
        "instance": point.instance,
        "confidence": point.confidence,
        "covariance": point.covariance,
    }


def target_keys(target: GraspTarget) -> dict[str, Any]:
    """Return a target as in msg/GraspTarget; what is unknown is null."""
    return {
        "point": point_keys(target.point),
        "status": target.status.name,
        "status_text": target.status_text,
        "frame_id": target.frame_id,
        "stamp_ns": target.stamp_ns,
        "position": target.position,
        "covariance": target.covariance,
        "depth_distance": target.depth_distance,
        "object": _box_keys(target.box),
        **_grasp_keys(target.grasp),
    }


def _box_keys(box: OrientedBox | None) -> dict[str, Any] | None:
    return None if box is None else {"pose": _pose_keys(box.pose), "size": box.size}


def _grasp_keys(grasp: Grasp | None) -> dict[str, Any]:
    if grasp is None:
        return {"grasp": None, "pregrasp": None, "width": None, "opening": None, "quality": None}
    poses = {"grasp": _pose_keys(grasp.pose), "pregrasp": _pose_keys(grasp.pregrasp)}
    return {**poses, "width": grasp.width, "opening": grasp.opening, "quality": grasp.quality}


def _pose_keys(pose: Pose) -> dict[str, Any]:
    return {"position": pose.position, "orientation": pose.orientation}


def to_plain(value: Any) -> Any:
    """Turn numpy values, tuples and enums into JSON types; NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return to_plain(sorted(value))
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return to_plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if value is None or isinstance(value, (str, int)):
        return value
    return str(value)
