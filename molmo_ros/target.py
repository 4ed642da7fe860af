"""From a pixel of an RGB-D frame to a grasp target: position, object, grasp. Needs no model and no ROS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from molmo_ros.datatypes import (
    Array,
    CameraPoint,
    Grasp,
    GraspTarget,
    ImagePoint,
    ObjectSegment,
    RgbdFrame,
    ShouldStop,
    TargetStatus,
)
from molmo_ros.errors import CancelledError, DepthError, GraspError, SegmentError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.guards import check_grasp
from molmo_ros.grasp.planner import GraspPlanner, plan_grasps
from molmo_ros.grasp.quality import calibrated
from molmo_ros.perception.box import oriented_box
from molmo_ros.perception.complete import Views, complete_shape
from molmo_ros.perception.find_object import Segmenter, find_object
from molmo_ros.perception.guards import check_segment
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.roughness import check_roughness
from molmo_ros.perception.segmenters import AUTO

ALTERNATIVES = 4  # grasps that are tried if the guards object to the best one


def find_target(
    frame: RgbdFrame,
    point: ImagePoint,
    gripper: Gripper,
    up: Array | None = None,
    *,
    planner: GraspPlanner = plan_grasps,
    segmenter: Segmenter | str = AUTO,
    grasp: bool = True,
    calibrate: bool = True,
    stages: dict[str, float] | None = None,
    should_stop: ShouldStop | None = None,
) -> GraspTarget:
    """Lift a point, segment the object around it, and plan its grasp, all in the camera's optical frame.

    Whatever fails is reported in the target's status and text; what was found until then is kept.

    Args: up (3,), away from the ground, or None; planner: see docs/other_planners.md; segmenter: see
    `find_object`; grasp False: the position only; calibrate False: leave the quality as the planner rates
    it; stages, to which each stage's ms are added.
    Raises: CancelledError as soon as should_stop returns True; FrameError, CameraInfoError.
    """
    stages = {} if stages is None else stages
    check_cancelled(should_stop)
    target = GraspTarget(point, TargetStatus.OK, "", frame.frame_id, frame.stamp_ns)
    try:
        with timed(stages, "lift"):
            lifted = lift_point(frame, point)
        target = replace(
            target, position=lifted.position, covariance=lifted.covariance, depth_distance=lifted.hole_px
        )
        if not grasp:
            return target
        with timed(stages, "segment"):
            check_roughness(frame, lifted.position)
            segment = find_object(frame, point, lifted, up, segmenter)
    except (DepthError, SegmentError) as error:
        return _refused(target, error)
    check_cancelled(should_stop)
    with timed(stages, "grasp"):
        try:
            views = complete_shape(segment, up)
            target = replace(target, segment=segment, box=oriented_box(segment, up, views))
            check_segment(segment, up)
            best = _best(frame, segment, views, lifted, gripper, up, planner)
        except (SegmentError, GraspError) as error:
            return _refused(target, error)
    if calibrate:
        best = replace(best, quality=calibrated(frame, segment, lifted, best, gripper))
    return replace(target, grasp=best)


def _best(
    frame: RgbdFrame,
    segment: ObjectSegment,
    views: Views,
    lifted: CameraPoint,
    gripper: Gripper,
    up: Array | None,
    planner: GraspPlanner,
) -> Grasp:
    """Return the best grasp that the guards let pass; more than one is planned only if they object to it.

    Raises: GraspError, of the planner, or what the guards say against the best.
    """
    refusal: GraspError | None = None
    for count in (1, ALTERNATIVES):
        for grasp in planner(segment, lifted, gripper, up, max_grasps=count, views=views):
            try:
                check_grasp(frame, segment, lifted, grasp, gripper)
            except GraspError as error:
                refusal = refusal or error
            else:
                return grasp
    assert refusal is not None
    raise refusal


def _refused(target: GraspTarget, error: DepthError | SegmentError | GraspError) -> GraspTarget:
    return replace(target, status=TargetStatus[error.code], status_text=str(error))


def check_cancelled(should_stop: ShouldStop | None) -> None:
    """Raises: CancelledError if the caller has given up."""
    if should_stop is not None and should_stop():
        raise CancelledError("The query was cancelled before all targets were planned; ask again.")


@contextmanager
def timed(stages: dict[str, float], name: str) -> Iterator[None]:
    """Add the milliseconds of a block to a stage, also if it fails."""
    start = time.perf_counter()
    try:
        yield
    finally:
        stages[name] = stages.get(name, 0.0) + 1000 * (time.perf_counter() - start)
