"""Run many targets through planner and physics, and keep one record for each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from multiprocessing import get_context

import numpy as np

from molmo_ros.datatypes import Array, Grasp, ImagePoint
from molmo_ros.errors import DepthError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.perception.lift import lift_point, pixel_ray
from molmo_ros.perception.segmenters import AUTO
from molmo_ros.pipeline import Grounder
from molmo_ros.sim.sensors import STEREO
from molmo_ros.tools.grasp_physics.controls import pca_top_down, straight_down
from molmo_ros.tools.grasp_physics.families import draw_case
from molmo_ros.tools.grasp_physics.infeasible import OPENING_M, TOO_WIDE
from molmo_ros.tools.grasp_physics.oracle import find_grasp
from molmo_ros.tools.grasp_physics.plan import Plan, iou, on_another_thing, plan
from molmo_ros.tools.grasp_physics.trial import FRICTION, Outcome, try_grasp
from molmo_ros.tools.grasp_physics.view import View, click, look

COVERAGE_PX = 3.0  # pointing error at which the covariance is judged
CHI2_90 = 6.251  # 90 % quantile of chi-square with 3 degrees of freedom
TRUTH = "truth"  # points from there
NOT_UNIQUE, NOT_FOUND = "NOT_UNIQUE", "NOT_FOUND"  # no words identify it; the model sees no such thing
CONTROLS = ("pca_top_down", "straight_down")


@dataclass(frozen=True)
class Setting:
    """How each target is run.

    points: "truth", a pixel in the target's true mask, or a checkpoint that is asked for the target by name.
    segmenter: auto, learned, geometry, or truth.
    pose_error_m: standard deviation, per axis, of where the robot really goes;
    sensor: that measures depth, by name (sim/sensors.py); noise: of the dropout sensor, None for the family's
    own; controls: run them too, on the same scene and pixel;
    oracle: where a target was not held, search by brute force for a grasp that holds."""

    gripper: str = "franka_hand"
    points: str = TRUTH
    segmenter: str = AUTO
    friction: float = FRICTION
    pose_error_m: float = 0.0
    jitter_px: float = 0.0
    sensor: str = STEREO
    noise: float | None = None
    controls: bool = False
    oracle: bool = False


@dataclass(frozen=True)
class Record:
    """The result of one target; NaN where it was not measured.

    outcome None: refused. on_target: the point lies in the target's mask. on_another: the grasp is on another
    thing. depth_error m at the point;
    covered: the true place of the meant pixel lies in the 90 % ellipsoid, when pointing errs by COVERAGE_PX.
    feasible: known by construction or by brute force. controls: held or not, by name.
    """

    family: str
    kind: str
    seed: int
    gap: float
    status: str
    text: str = ""
    outcome: Outcome | None = None
    on_target: bool = False
    on_another: bool = False
    quality: float = float("nan")
    iou: float = float("nan")
    depth_error: float = float("nan")
    ambiguity: float = float("nan")
    covered: bool | None = None
    cpu_ms: float = float("nan")
    variant: str = ""
    feasible: bool | None = None
    controls: dict[str, bool] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        return self.outcome is not None and self.outcome.held


def run_target(family: str, seed: int, setting: Setting) -> Record:
    """Draw, look, plan, try: one target."""
    gripper = Gripper.load(setting.gripper)
    case = draw_case(family, seed)
    view = look(case, setting.noise, setting.sensor)
    point = click(view, setting.jitter_px) if setting.points == TRUTH else model_point(view, setting.points)
    if isinstance(point, str):
        return Record(family, case.thing.kind, seed, case.gap, status=point)
    planned = plan(view, point, gripper, setting.segmenter)
    outcome, on_another = None, False
    if planned.grasp is not None:
        on_another = on_another_thing(view, planned.grasp, gripper)
        real = displaced(planned.grasp, setting.pose_error_m, seed)
        outcome = try_grasp(case.scene, case.target, real, gripper, setting.friction)
    record = Record(
        family=family,
        kind=case.thing.kind,
        seed=seed,
        gap=case.gap,
        status=planned.status.name,
        text=planned.text,
        outcome=outcome,
        on_target=bool(view.mask[round(point.y), round(point.x)]),
        on_another=on_another,
        quality=planned.grasp.quality if planned.grasp is not None else float("nan"),
        iou=iou(planned.segment.mask, view.mask) if planned.segment is not None else float("nan"),
        depth_error=depth_error(view, point, planned),
        ambiguity=planned.lifted.ambiguity if planned.lifted is not None else float("nan"),
        covered=covered(view),
        cpu_ms=planned.cpu_ms,
        variant=case.variant,
        feasible=None if case.variant == TOO_WIDE and gripper.max_opening > OPENING_M else case.feasible,
    )
    if setting.controls:
        record = replace(record, controls=run_controls(view, planned, gripper, setting))
    if setting.oracle and record.feasible is None:
        found = record.held or find_grasp(case.scene, case.target, gripper, seed, setting.friction)
        record = replace(record, feasible=bool(found))
    return record


def model_point(view: View, checkpoint: str) -> ImagePoint | str:
    """Where a model points when asked for the target by colour and kind, or why there is no such point."""
    names = [o.name for o in view.case.scene.objects]
    name = view.case.thing.name
    if names.count(name) > 1:
        return NOT_UNIQUE
    answer = _grounder(checkpoint).point(view.frame.rgb, f"the {name}")
    return answer.points[0] if answer.points else NOT_FOUND


@lru_cache(maxsize=1)
def _grounder(checkpoint: str) -> Grounder:
    """One model for each process."""
    return Grounder.load(checkpoint)


def run_controls(view: View, planned: Plan, gripper: Gripper, setting: Setting) -> dict[str, bool]:
    """Execute the controls from the same segment and the same lifted point."""
    T, grasps = view.case.scene.T_world_camera, {}
    if planned.segment is not None:
        grasps["pca_top_down"] = pca_top_down(planned.segment, T, gripper)
    if planned.lifted is not None:
        grasps["straight_down"] = straight_down(planned.lifted, T, gripper)
    held = dict.fromkeys(CONTROLS, False)
    for name, grasp in grasps.items():
        real = displaced(grasp, setting.pose_error_m, view.case.seed)
        held[name] = try_grasp(view.case.scene, view.case.target, real, gripper, setting.friction).held
    return held


def displaced(grasp: Grasp, sigma_m: float, seed: int) -> Grasp:
    """The grasp where an imprecise robot takes it."""
    off = np.random.default_rng([seed, 5]).normal(size=3) * sigma_m
    return replace(
        grasp,
        pose=replace(grasp.pose, position=grasp.pose.position + off),
        pregrasp=replace(grasp.pregrasp, position=grasp.pregrasp.position + off),
    )


def depth_error(view: View, point: ImagePoint, planned: Plan) -> float:
    """How far (m) the lifted point is from the true surface at its pixel; NaN if it was not lifted."""
    if planned.lifted is None:
        return float("nan")
    return abs(float(planned.lifted.position[2]) - float(view.depth[round(point.y), round(point.x)]))


def covered(view: View) -> bool | None:
    """Tell if the true place lies in the 90 % ellipsoid of a point that errs; None if it is not lifted."""
    meant = click(view)
    off = np.random.default_rng([view.case.seed, 6]).normal(size=2) * COVERAGE_PX
    height, width = view.depth.shape
    x, y = np.clip([meant.x + off[0], meant.y + off[1]], 0, [width - 1, height - 1])
    told = ImagePoint(float(x), float(y), meant.label, covariance=COVERAGE_PX**2 * np.eye(2))
    try:
        lifted = lift_point(view.frame, told)
    except DepthError:
        return None
    truth = float(view.depth[round(meant.y), round(meant.x)]) * pixel_ray(meant.x, meant.y, view.frame.K)
    return bool(mahalanobis2(lifted.position - truth, lifted.covariance) <= CHI2_90)


def mahalanobis2(error: Array, covariance: Array) -> float:
    """Squared Mahalanobis distance of an error (3,)."""
    return float(error @ np.linalg.solve(covariance, error))


def run_all(
    work: Sequence[tuple[str, int, Setting]],
    jobs: int = 1,
    done: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Run (family, seed, setting) on some processes; records come in the order of the work."""
    records = []
    for record in _results(work, jobs):
        records.append(record)
        if done is not None:
            done(record)
    return records


def _results(work: Sequence[tuple[str, int, Setting]], jobs: int) -> Iterable[Record]:
    if jobs == 1:
        yield from (run_target(*item) for item in work)
        return
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # for the processes to come
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run_target, *zip(*work, strict=True), chunksize=4)
