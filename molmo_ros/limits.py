"""What no target may exceed, however it was found. The last check before one is published.

A target beyond a limit is not dropped: it comes back with the status that says which, and is never sent as
a pose to go to. A limit that cannot be checked, because a number is unknown, counts as exceeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from molmo_ros.datatypes import Array, GraspTarget, TargetStatus
from molmo_ros.errors import ParameterError
from molmo_ros.transforms import transform_points

Reason = tuple[TargetStatus, str]


@dataclass(frozen=True)
class Box:
    """An axis-aligned box: two opposite corners (3,) m, the lower one first."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def contains(self, points: Array) -> bool:
        """Whether all points (N,3) m lie in it; NaN does not."""
        return bool(np.all((points >= self.low) & (points <= self.high)))

    def meets(self, start: Array, end: Array) -> bool:
        """Whether the straight line between two points (3,) m touches it. Source: the slab method."""
        step = end - start
        with np.errstate(divide="ignore", invalid="ignore"):
            near, far = (np.asarray(self.low) - start) / step, (np.asarray(self.high) - start) / step
        along = np.abs(step) > 1e-12
        inside = (np.maximum(start, end) >= self.low) & (np.minimum(start, end) <= self.high)
        if not np.all(inside | along):
            return False
        enter = max(0.0, *np.minimum(near, far)[along].tolist(), 0.0)
        leave = min(1.0, *np.maximum(near, far)[along].tolist(), 1.0)
        return bool(enter <= leave)


def parse_boxes(texts: Sequence[str], name: str) -> tuple[Box, ...]:
    """Boxes from text, six numbers each: x y z of the lower corner and of the higher one; '' means none.

    Raises: ParameterError with the name of the parameter.
    """
    return tuple(_parse_box(text, name) for text in texts if text.strip())


def _parse_box(text: str, name: str) -> Box:
    try:
        a, b, c, d, e, f = (float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise ParameterError(
            f"{name} is {text[:80]!r}; give six numbers in m, x y z of the lower corner, then of the higher."
        ) from None
    if not (a < d and b < e and c < f) or not all(map(math.isfinite, (a, b, c, d, e, f))):
        raise ParameterError(f"{name} is {text[:80]!r}; the first corner must lie below the second one.")
    return Box((a, b, c), (d, e, f))


@dataclass(frozen=True)
class Limits:
    """Bounds of what may be published; the boxes are in ``frame``, '' being that of the targets.

    workspace: where position, grasp and pregrasp must be, None anywhere; keep_out: what none of them, and not
    the way between pregrasp and grasp, may touch. max_sigma_m: of the position, along its worst axis.
    max_age_s: of the image when the target is published. min_confidence, min_quality: 0..1, 0 not checked.
    max_targets: of one answer, 0 any number.
    """

    frame: str = ""
    workspace: Box | None = None
    keep_out: tuple[Box, ...] = ()
    max_sigma_m: float = math.inf
    max_age_s: float = math.inf
    min_confidence: float = 0.0
    min_quality: float = 0.0
    max_targets: int = 0


def enforce(
    targets: Sequence[GraspTarget],
    limits: Limits,
    *,
    age_s: float,
    T_limits_target: Array | None = None,
    leased: bool = True,
) -> tuple[GraspTarget, ...]:
    """The targets, in their order, with the status of the first limit that each exceeds.

    age_s: of the image, now. T_limits_target (4,4): the frame of the targets in that of the limits; None: it
    is the same. leased: whether somebody renews the lease, where one is required.
    """
    checked: list[GraspTarget] = []
    usable = 0
    for target in targets:
        reason = None
        if target.status is TargetStatus.OK:
            reason = _exceeded(target, limits, age_s, T_limits_target, leased)
            if reason is None and 0 < limits.max_targets <= usable:
                reason = (
                    TargetStatus.TOO_MANY,
                    f"the answer has more than max_targets = {limits.max_targets}.",
                )
            usable += reason is None
        checked.append(target if reason is None else replace(target, status=reason[0], status_text=reason[1]))
    return tuple(checked)


def _exceeded(
    target: GraspTarget, limits: Limits, age_s: float, T: Array | None, leased: bool
) -> Reason | None:
    """The first limit that a target exceeds, None if it is within all."""
    if not leased:
        return TargetStatus.NO_LEASE, "Nobody renews the lease; publish on ~/lease while targets are wanted."
    if not age_s <= limits.max_age_s:
        return (
            TargetStatus.STALE,
            f"The image is {age_s:.1f} s old, more than max_target_age_s = {limits.max_age_s:g}; ask about a "
            "newer one, take a faster model, or raise it.",
        )
    return _out_of_bounds(target, limits, T) or _too_uncertain(target, limits)


def _out_of_bounds(target: GraspTarget, limits: Limits, T: Array | None) -> Reason | None:
    if limits.workspace is None and not limits.keep_out:
        return None
    places = {"position": np.full(3, np.nan) if target.position is None else target.position}
    if target.grasp is not None:
        places["grasp"] = target.grasp.pose.position
        places["pregrasp"] = target.grasp.pregrasp.position
    named = {name: place if T is None else transform_points(T, place) for name, place in places.items()}
    if not all(np.isfinite(place).all() for place in named.values()):
        return TargetStatus.OUT_OF_WORKSPACE, "The place is not known, so it may be anywhere."
    where = f"in {limits.frame or target.frame_id!r}"
    for name, place in named.items():
        if limits.workspace is not None and not limits.workspace.contains(place[None]):
            return (
                TargetStatus.OUT_OF_WORKSPACE,
                f"The {name} {_text(place)} {where} lies outside the workspace {limits.workspace.low} ... "
                f"{limits.workspace.high} m; move the object, or change the parameter workspace.",
            )
    ways = [(place, place) for place in named.values()]
    if target.grasp is not None:
        ways.append((named["pregrasp"], named["grasp"]))
    for number, box in enumerate(limits.keep_out):
        if any(box.meets(start, end) for start, end in ways):
            return (
                TargetStatus.KEEP_OUT,
                f"The target at {_text(named['position'])} {where}, or the way to it, touches keep_out box "
                f"{number} ({box.low} ... {box.high} m).",
            )
    return None


def _too_uncertain(target: GraspTarget, limits: Limits) -> Reason | None:
    if math.isfinite(limits.max_sigma_m):
        sigma, bound = _worst_sigma(target.covariance), f"max_sigma = {limits.max_sigma_m * 1000:g} mm"
        if math.isnan(sigma):
            return (
                TargetStatus.UNCERTAIN,
                f"The covariance of the position is not known, so {bound} cannot be checked; take a server "
                "that tells probabilities, or set max_sigma to 0, which does not ask.",
            )
        if sigma > limits.max_sigma_m:
            return (
                TargetStatus.UNCERTAIN,
                f"The position is known to {sigma * 1000:.0f} mm (one sigma), worse than {bound}; bring the "
                "camera nearer, or raise it.",
            )
    confidence = target.point.confidence
    if limits.min_confidence > 0 and not confidence >= limits.min_confidence:
        known = "not known (no probabilities are told)" if math.isnan(confidence) else f"{confidence:.2f}"
        return (
            TargetStatus.UNCERTAIN,
            f"The confidence is {known}, below min_confidence = {limits.min_confidence:g}; name the object "
            "more exactly, or lower it.",
        )
    if target.grasp is not None and limits.min_quality > 0 and not target.grasp.quality >= limits.min_quality:
        return (
            TargetStatus.LOW_QUALITY,
            f"The best grasp has quality {target.grasp.quality:.2f}, below min_quality = "
            f"{limits.min_quality:g}; turn the object, or lower it.",
        )
    return None


def _worst_sigma(covariance: Array | None) -> float:
    """Standard deviation in m along the worst axis of a covariance (3,3) m^2; NaN if it is not known."""
    if covariance is None or not np.isfinite(covariance).all():
        return math.nan
    return math.sqrt(max(float(np.linalg.eigvalsh(covariance)[-1]), 0.0))


def _text(place: Array) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in place) + ")"
