"""From a view and a pixel to a grasp in the world, by the planner or by a control."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import CameraPoint, Grasp, ImagePoint, Mask, ObjectSegment, TargetStatus
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.guards import contact_of
from molmo_ros.perception.find_object import Segmenter
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.segmenters import AUTO
from molmo_ros.target import find_target
from molmo_ros.tools.grasp_physics.view import View
from molmo_ros.transforms import invert, transform_grasp

TRUTH = "truth"  # the mask of the simulation
NEAR_M = 0.012  # of the contact: what is seen there is held


@dataclass(frozen=True)
class Plan:
    """grasp in the world frame, or None and the status that says why; lifted and segment as far as they were
    computed.

    cpu_ms: CPU time of this thread, from the pixel to the grasp.
    """

    grasp: Grasp | None
    status: TargetStatus
    text: str = ""
    lifted: CameraPoint | None = None
    segment: ObjectSegment | None = None
    cpu_ms: float = 0.0


def plan(view: View, point: ImagePoint, gripper: Gripper, segmenter: str = AUTO) -> Plan:
    """Plan as Grounder.grasp does, from a given point; segmenter: as `find_object` has it, or TRUTH."""
    start = time.thread_time()
    masks: Segmenter | str = (lambda frame, point: view.mask) if segmenter == TRUTH else segmenter
    target = find_target(view.frame, point, gripper, view.up, segmenter=masks)
    cpu_ms = 1000 * (time.thread_time() - start)
    grasp = None if target.grasp is None else transform_grasp(view.case.scene.T_world_camera, target.grasp)
    lifted = None if target.position is None else lift_point(view.frame, point)
    return Plan(grasp, target.status, target.status_text, lifted, target.segment, cpu_ms)


def on_another_thing(view: View, grasp: Grasp, gripper: Gripper) -> bool:
    """Tell whether things are seen where a grasp, in the world frame, closes, and the target is not among
    them."""
    K = view.frame.K
    x, y, z = contact_of(transform_grasp(invert(view.case.scene.T_world_camera), grasp), gripper)
    u, v = round(K[0, 0] * x / z + K[0, 2]), round(K[1, 1] * y / z + K[1, 2])
    reach = round(NEAR_M * K[0, 0] / z)
    seen = view.ids[max(v - reach, 0) : v + reach + 1, max(u - reach, 0) : u + reach + 1]
    return bool((seen > 0).any() and not (seen == view.case.target + 1).any())


def iou(mask: Mask, truth: Mask) -> float:
    """Intersection over union of two masks (H,W)."""
    union = np.count_nonzero(mask | truth)
    return float(np.count_nonzero(mask & truth) / union) if union else float("nan")
