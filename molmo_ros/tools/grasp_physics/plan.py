"""From a view and a pixel to a grasp in the world, by the planner or by a control."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from molmo_ros.datatypes import CameraPoint, Grasp, ImagePoint, Mask, ObjectSegment, TargetStatus
from molmo_ros.errors import DepthError, GraspError, SegmentError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.planner import plan_grasps
from molmo_ros.perception.complete import complete_shape
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.segment import segment_object
from molmo_ros.tools.grasp_physics.view import View
from molmo_ros.transforms import transform_grasp


@dataclass(frozen=True)
class Plan:
    """grasp in the world frame, or None and the status why; lifted and segment as far as they came.

    cpu_ms: CPU time of this thread, from the pixel to the grasp.
    """

    grasp: Grasp | None
    status: TargetStatus
    text: str = ""
    lifted: CameraPoint | None = None
    segment: ObjectSegment | None = None
    cpu_ms: float = 0.0


def plan(view: View, point: ImagePoint, gripper: Gripper, true_mask: bool = False) -> Plan:
    """Plan as Grounder.grasp does, from a given point; with the true mask of the target if wanted."""
    start = time.thread_time()
    done = Plan(None, TargetStatus.OK)
    try:
        lifted = lift_point(view.frame, point)
        done = replace(done, lifted=lifted)
        segment = segment_object(view.frame, point, lifted, view.up, view.mask if true_mask else None)
        done = replace(done, segment=segment)
        views = complete_shape(segment, view.up)
        grasp = plan_grasps(segment, lifted, gripper, view.up, views=views)[0]
        done = replace(done, grasp=transform_grasp(view.case.scene.T_world_camera, grasp))
    except (DepthError, SegmentError, GraspError) as error:
        done = replace(done, status=TargetStatus[error.code], text=str(error))
    return replace(done, cpu_ms=1000 * (time.thread_time() - start))


def iou(mask: Mask, truth: Mask) -> float:
    """Intersection over union of two masks (H,W)."""
    union = np.count_nonzero(mask | truth)
    return float(np.count_nonzero(mask & truth) / union) if union else float("nan")
