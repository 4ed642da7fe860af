"""From an object to grasps for a parallel gripper: propose many, keep those that fit, return the best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np

from molmo_ros.datatypes import Array, CameraPoint, Grasp, Index, ObjectSegment
from molmo_ros.errors import GraspError
from molmo_ros.grasp.candidates import Candidates, leaning_candidates, pair_candidates, top_candidates
from molmo_ros.grasp.collision import check
from molmo_ros.grasp.fits import Fits, Refusals
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.rims import rim_candidates
from molmo_ros.grasp.score import known_opening, prior_score, probability, score
from molmo_ros.grasp.sweep import TRAVEL_M, clearance
from molmo_ros.perception.complete import Shape, Views, complete_shape
from molmo_ros.perception.outline import rectangle_angle
from molmo_ros.transforms import invert, make_transform, pose_from_matrix, transform_grasp, transform_points

SAME_POSITION_M, SAME_ANGLE = 0.03, np.radians(30.0)
# candidates are checked a part at a time, until one has a score that ends the search
SEARCH_STAGES = ((slice(64), 0.68), (slice(64, 192), 0.60), (slice(192, None), 0.0))
BEST = 12  # of each part are checked thoroughly


class GraspPlanner(Protocol):
    """The interface of `plan_grasps`, and of any planner that replaces it (docs/other_planners.md)."""

    def __call__(
        self,
        segment: ObjectSegment,
        camera_point: CameraPoint,
        gripper: Gripper,
        up: Array | None = None,
        max_grasps: int = 1,
        views: Views | None = None,
    ) -> list[Grasp]:
        """Return at least one grasp in the camera's optical frame, best first, or raise GraspError."""
        ...


def plan_grasps(
    segment: ObjectSegment,
    camera_point: CameraPoint,
    gripper: Gripper,
    up: Array | None = None,
    max_grasps: int = 1,
    views: Views | None = None,
    max_tilt_deg: float = 180.0,
) -> list[Grasp]:
    """Plan grasps in the camera's optical frame, best first, each different from those before it.

    Args: camera_point, what was asked for: grasps near it are preferred; up (3,), away from the ground,
    used where the segment has no support plane; views, the completed segment if it is known already;
    max_tilt_deg, how far the approach may lean from straight down on the support, for arms that reach no
    other way.
    Raises: GraspError, with code TOO_WIDE if the gripper could not open around the object even if nothing
    stood near it, else COLLISION.
    """
    views = views or complete_shape(segment, up)
    T_support_camera = invert(views.coarse.T_camera_support)
    click = transform_points(T_support_camera, np.asarray(camera_point.position, dtype=np.float64))
    down = np.cos(np.radians(max_tilt_deg)) - 1e-9
    tried: list[Candidates] = []
    refusals = Refusals()
    for kinds in _kinds(views, click, gripper):
        reached = [c.take(-c.rotation[:, 2, 2] >= down) for c in kinds]
        candidates = _ranked(views.coarse, reached, click, gripper)
        fits, quality, refused = _search(views, candidates, click, gripper, max_grasps)
        if len(fits) > 0:
            return [_grasp(views.dense, fits, k, float(q), gripper) for k, q in enumerate(quality)]
        tried.append(candidates)
        refusals = refusals + refused
    raise _refusal(views.coarse, gripper, Candidates.joined(tried), refusals)


def _kinds(views: Views, click: Array, gripper: Gripper) -> Iterator[list[Candidates]]:
    """Yield candidates of each kind for a shape clicked at (3,) m; then, if none of these will do, more of
    them."""
    yield [
        pair_candidates(views.coarse, gripper),
        top_candidates(views.coarse, click, gripper),
        rim_candidates(views, click),
    ]
    yield [leaning_candidates(views.coarse, gripper)]


def _ranked(shape: Shape, kinds: list[Candidates], click: Array, gripper: Gripper) -> Candidates:
    """Put the most promising first, with a share for each kind, since nobody knows which kind fits here."""
    ranks = [np.argsort(np.argsort(-prior_score(shape, c, click, gripper), kind="stable")) for c in kinds]
    share = np.concatenate([(rank + 0.5) / max(len(rank), 1) for rank in ranks])
    return Candidates.joined(kinds).take(np.argsort(share, kind="stable"))


def _search(
    views: Views, candidates: Candidates, click: Array, gripper: Gripper, wanted: int
) -> tuple[Fits, Array, Refusals]:
    """Check candidates, the most promising first, until enough different good ones are found.

    Returns these, best first, their scores, and what became of the others.
    """
    parts: list[Fits] = []
    refusals = Refusals()
    for fits, refused, good in _looks(views, candidates, click, gripper):
        parts.append(fits)
        found, refusals = Fits.joined(parts), refusals + refused
        quality = score(views.dense, found, click, gripper)
        chosen = _different(found, np.argsort(-quality, kind="stable"), wanted)
        if len(chosen) >= wanted and quality[chosen[0]] >= good:
            break
    return found.take(chosen), quality[chosen], refusals


def _looks(
    views: Views, candidates: Candidates, click: Array, gripper: Gripper
) -> Iterator[tuple[Fits, Refusals, float]]:
    """Check a part of the candidates at a time: all against the coarse cloud, the best against the dense one.

    Yields what fits, what became of the others, and the score that is good enough by then. Others that pass
    the coarse check are examined only if nothing was found.
    """
    left, found = [], False
    for look, good in SEARCH_STAGES:
        rough, refusals = check(views.coarse, candidates.take(look), gripper)
        ranked = np.argsort(-score(views.coarse, rough, click, gripper), kind="stable")
        fits, refused = check(views.dense, rough.candidates(ranked[:BEST]), gripper)
        left.append(rough.candidates(ranked[BEST:]))
        found = found or len(fits) > 0
        yield fits, refusals + refused, good
    while left and not found:
        fits, refusals = check(views.dense, left.pop(0), gripper)
        found = len(fits) > 0
        yield fits, refusals, good


def _grasp(shape: Shape, fits: Fits, k: int, quality: float, gripper: Gripper) -> Grasp:
    R, tips = fits.rotation[k], fits.tips[k]
    grasp = Grasp(
        pose=pose_from_matrix(make_transform(R, tips)),
        pregrasp=pose_from_matrix(make_transform(R, tips - TRAVEL_M * R[:, 2])),
        width=float(fits.width[k]),
        quality=probability(quality),
        opening=known_opening(shape, fits, k, gripper),
    )
    return transform_grasp(shape.T_camera_support, grasp)


def _different(fits: Fits, order: Index, wanted: int) -> Index:
    """Walk down the ranking, leaving out what is within 3 cm and 30 degrees of a grasp already taken.

    Turning a hand by 180 degrees about its approach swaps the fingers and is no difference.
    """
    flip = np.diag([-1.0, -1.0, 1.0])
    taken: list[int] = []
    for k in order:
        if len(taken) >= max(wanted, 1):
            break
        near = [t for t in taken if np.linalg.norm(fits.tips[t] - fits.tips[k]) < SAME_POSITION_M]
        R = fits.rotation[k]
        angles = [min(_angle(fits.rotation[t], R), _angle(fits.rotation[t], R @ flip)) for t in near]
        if all(angle > SAME_ANGLE for angle in angles):
            taken.append(int(k))
    return np.array(taken, dtype=np.intp)


def _angle(a: Array, b: Array) -> float:
    """Return the angle (rad) between two rotations (3,3)."""
    return float(np.arccos(np.clip((np.trace(a.T @ b) - 1) / 2, -1, 1)))


def _refusal(shape: Shape, gripper: Gripper, tried: Candidates, refusals: Refusals) -> GraspError:
    angle = rectangle_angle(shape.points[:, :2])
    c, s = np.cos(angle), np.sin(angle)
    narrowest = float(np.ptp(shape.points[:, :2] @ np.array([[c, -s], [s, c]]), axis=0).min())
    alone, _ = check(replace(shape, scene=np.zeros((0, 3))), tried.take(SEARCH_STAGES[0][0]), gripper)
    if len(alone) == 0 and narrowest > gripper.max_opening - 2 * clearance(shape):
        return GraspError(
            f"What is connected at the point is {1000 * narrowest:.0f} mm wide at its narrowest, "
            f"{gripper.name} opens {1000 * gripper.max_opening:.0f} mm, and no edge of it can be held; use a "
            "wider gripper, or, if it is several things, move them apart.",
            code="TOO_WIDE",
        )
    # without the neighbours none would fit either: then clearing them away does not help
    fix = "point at a part that can be held" if len(alone) == 0 else "clear its surroundings"
    return GraspError(
        f"None of {len(tried)} grasps of an object {1000 * narrowest:.0f} mm wide is free "
        f"({refusals.text()}); {fix}, or look from another side.",
        code="COLLISION",
    )
