"""From a pixel of an RGB-D frame to a grasp target: position, object, grasp. Needs no model and no ROS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from molmo_ros.datatypes import (
    Array,
    CameraPoint,
    GraspTarget,
    ImagePoint,
    Mask,
    RgbdFrame,
    ShouldStop,
    TargetStatus,
)
from molmo_ros.errors import CancelledError, DepthError, GraspError, SegmentError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.planner import GraspPlanner, plan_grasps
from molmo_ros.perception.box import oriented_box
from molmo_ros.perception.complete import complete_shape
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.segment import segment_object

Segmenter = Callable[[RgbdFrame, ImagePoint], Mask]


def find_target(
    frame: RgbdFrame,
    point: ImagePoint,
    gripper: Gripper,
    up: Array | None = None,
    *,
    planner: GraspPlanner = plan_grasps,
    segmenter: Segmenter | None = None,
    grasp: bool = True,
    stages: dict[str, float] | None = None,
    should_stop: ShouldStop | None = None,
) -> GraspTarget:
    """Lift a point, segment the object around it, and plan its grasp, all in the camera's optical frame.

    Whatever fails is told by the target's status and text; what was found until then is kept.

    Args: up (3,), away from the ground, or None; planner, segmenter: see docs/other_planners.md (segmenter
    None: by geometry); grasp False: the position only; stages, to which each stage's ms are added.
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
            mask = None if segmenter is None else segmenter(frame, point)
            segment = segment_object(frame, point, lifted, up, mask)
    except (DepthError, SegmentError) as error:
        return replace(target, status=TargetStatus[error.code], status_text=str(error))
    check_cancelled(should_stop)
    with timed(stages, "grasp"):
        return _with_grasp(replace(target, segment=segment), lifted, gripper, up, planner)


def _with_grasp(
    target: GraspTarget, lifted: CameraPoint, gripper: Gripper, up: Array | None, planner: GraspPlanner
) -> GraspTarget:
    """Add the box and the best grasp of the target's segment."""
    segment = target.segment
    assert segment is not None
    try:
        views = complete_shape(segment, up)
        target = replace(target, box=oriented_box(segment, up, views))
        best = planner(segment, lifted, gripper, up, max_grasps=1, views=views)[0]
    except (SegmentError, GraspError) as error:
        return replace(target, status=TargetStatus[error.code], status_text=str(error))
    return replace(target, grasp=best)


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
