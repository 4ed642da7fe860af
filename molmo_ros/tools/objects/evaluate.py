"""Plan for every labelled point of recorded frames, and summarise the results."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from molmo_ros.datatypes import GraspTarget, RgbdFrame, TargetStatus
from molmo_ros.grasp.between import measured_between
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.tools.grasp_physics.plan import iou
from molmo_ros.tools.objects.layout import Labelled, Recorded

NAN = float("nan")
LONG_M, FAR_M = 0.24, 0.12  # a longer segment, or a grasp farther from its point, is hardly what was meant


@dataclass(frozen=True)
class Result:
    """The result of one labelled point; NaN where there is nothing to measure.

    iou with the label's mask; length m, the longest side of the segment's box; distance m from the point to
    the middle between the fingertips; ms of the whole way from the pixel to the grasp; another: the name of
    the thing of which most was measured between the fingers, if it is not the one meant.
    """

    frame: str
    label: Labelled
    target: GraspTarget
    iou: float
    length: float
    distance: float
    ms: float
    another: str


Find = Callable[[RgbdFrame, Labelled, "np.ndarray | None"], GraspTarget]


def evaluate(recorded: Iterable[Recorded], find: Find, gripper: Gripper) -> Iterable[tuple[Recorded, Result]]:
    """Yield each frame with the result of each of its points; find plans for one point."""
    for one in recorded:
        for label in one.points:
            start = time.perf_counter()
            target = find(one.frame, label, one.up)
            ms = 1000 * (time.perf_counter() - start)
            yield one, _result(one, label, target, ms, gripper)


def _result(one: Recorded, label: Labelled, target: GraspTarget, ms: float, gripper: Gripper) -> Result:
    segment, grasp = target.segment, target.grasp
    distance = NAN
    if grasp is not None and target.position is not None:
        distance = float(np.linalg.norm(grasp.pose.position - target.position))
    return Result(
        frame=one.name,
        label=label,
        target=target,
        iou=NAN if label.mask is None or segment is None else iou(segment.mask, label.mask),
        length=NAN if target.box is None else float(target.box.size.max()),
        distance=distance,
        ms=ms,
        another=_another(one, label, target, gripper),
    )


def _another(one: Recorded, label: Labelled, target: GraspTarget, gripper: Gripper) -> str:
    """Name the thing that would be held, if it is not the one meant; "" if none, or not known."""
    if target.grasp is None or target.segment is None or label.mask is None:
        return ""
    u, v, area = measured_between(one.frame, target.grasp, gripper, target.segment.plane)
    known = [(float(area[other.mask[v, u]].sum()), other) for other in one.points if other.mask is not None]
    most, other = max(known, key=lambda pair: pair[0])
    return other.name if most > float(area[label.mask[v, u]].sum()) else ""


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Return shares by status, IoU, what the guards look at, and times, as numbers for JSON."""
    sent = [r for r in results if r.target.status is TargetStatus.OK]
    return {
        "frames": len({r.frame for r in results}),
        "targets": len(results),
        "statuses": dict(Counter(r.target.status.name for r in results)),
        "sent": len(sent),
        "sent_though_refusal_expected": [f"{r.frame}/{r.label.name}" for r in sent if r.label.refuse],
        "refused_though_not_expected": [
            f"{r.frame}/{r.label.name}" for r in results if r not in sent and not r.label.refuse
        ],
        "sent_on_another_thing": [f"{r.frame}/{r.label.name}: {r.another}" for r in sent if r.another],
        "iou": _spread([r.iou for r in results]),
        "length_m": _spread([r.length for r in results]),
        "longer_than_240_mm": sum(r.length > LONG_M for r in results),
        "distance_m": _spread([r.distance for r in results]),
        "farther_than_120_mm": sum(r.distance > FAR_M for r in results),
        "quality": _spread([r.target.grasp.quality for r in sent if r.target.grasp is not None]),
        "ms": _spread([r.ms for r in results]),
        "results": [_keys(r) for r in results],
    }


def _keys(r: Result) -> dict[str, Any]:
    grasp = r.target.grasp
    return {
        "frame": r.frame,
        "name": r.label.name,
        "x": r.label.x,
        "y": r.label.y,
        "expected": "refuse" if r.label.refuse else "",
        "status": r.target.status.name,
        "status_text": r.target.status_text,
        "quality": NAN if grasp is None else grasp.quality,
        "width_m": NAN if grasp is None else grasp.width,
        "opening_m": NAN if grasp is None else grasp.opening,
        "iou": r.iou,
        "another": r.another,
        "length_m": r.length,
        "distance_m": r.distance,
        "ms": r.ms,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, quantiles and count of what is known."""
    known = [v for v in values if np.isfinite(v)]
    if not known:
        return {"n": 0}
    p10, p50, p95 = np.quantile(known, [0.1, 0.5, 0.95])
    return {
        "n": len(known),
        "mean": float(np.mean(known)),
        "p10": float(p10),
        "p50": float(p50),
        "p95": float(p95),
        "max": float(max(known)),
    }


def table(result: dict[str, Any]) -> str:
    """The same for people: one line for each target, then the sums."""
    lines = [
        f"{'frame':<14}{'target':<16}{'status':<14}{'quality':>8}{'open':>6}{'width':>6}{'IoU':>6}"
        f"{'length':>8}{'distance':>9}{'ms':>6}"
    ]
    for r in result["results"]:
        lines.append(
            f"{r['frame'][:13]:<14}{r['name'][:15]:<16}{r['status']:<14}{_cell(r['quality'], 8, 2)}"
            f"{_cell(r['opening_m'], 6, 0, 1000)}{_cell(r['width_m'], 6, 0, 1000)}{_cell(r['iou'], 6, 2)}"
            f"{_cell(r['length_m'], 8, 0, 1000)}{_cell(r['distance_m'], 9, 0, 1000)}{_cell(r['ms'], 6, 0)}"
            + ("  (refusal expected)" if r["expected"] else "")
        )
    shares = ", ".join(f"{name} {n}" for name, n in sorted(result["statuses"].items()))
    lines.append(f"{result['targets']} targets in {result['frames']} frames: {shares}")
    if result["iou"]["n"]:
        lines.append(
            f"IoU mean {result['iou']['mean']:.2f}, 10th percentile {result['iou']['p10']:.2f}; sent grasps "
            f"that would hold another thing: {len(result['sent_on_another_thing'])}"
        )
    lines.append(
        f"segments longer than 240 mm: {result['longer_than_240_mm']}; grasps farther than 120 mm from their "
        f"point: {result['farther_than_120_mm']}; ms p50 {result['ms'].get('p50', 0):.0f}, p95 "
        f"{result['ms'].get('p95', 0):.0f}"
    )
    return "\n".join(lines)


def _cell(value: float | None, width: int, digits: int, scale: float = 1.0) -> str:
    known = value is not None and np.isfinite(value)
    return f"{scale * value:>{width}.{digits}f}" if known else f"{'-':>{width}}"  # type: ignore[operator]
