"""The interfaces through which another segmentation or planner takes over, with small real ones."""

from __future__ import annotations

import numpy as np
import pytest
from solids import block, look, sphere

from molmo_ros.datatypes import Answer, Array, CameraPoint, Grasp, ImagePoint, Mask, ObjectSegment, RgbdFrame
from molmo_ros.datatypes import TargetStatus as Status
from molmo_ros.errors import GraspError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.perception.complete import Views
from molmo_ros.pipeline import Grounder
from molmo_ros.transforms import make_transform, matrix_from_quaternion, pose_from_matrix

VIEW = look(block(0, 0, (0.04, 0.12, 0.05), yaw=0.6), sphere(0.1, 0.02, 0.03), noise=1)


class OnePoint:
    """A model that points at the block, whatever it is asked."""

    def point(self, *_: object, **__: object) -> Answer:
        return Answer("", (VIEW.middle(),))


@pytest.fixture
def grounder() -> Grounder:
    return Grounder(OnePoint(), Gripper.load("franka_hand"))  # type: ignore[arg-type]


def straight_down(
    segment: ObjectSegment,
    camera_point: CameraPoint,
    gripper: Gripper,
    up: Array | None = None,
    max_grasps: int = 1,
    views: Views | None = None,
) -> list[Grasp]:
    """Across the shorter axis of what is seen, from the side of the camera."""
    spread = segment.cloud_m - segment.cloud_m.mean(axis=0)
    axes = np.linalg.svd(spread, full_matrices=False)[2]
    width = float(np.ptp(spread @ axes[1]))
    if width > gripper.max_opening:
        raise GraspError(f"{1000 * width:.0f} mm are too wide.", code="TOO_WIDE")
    z = axes[2] if axes[2][2] > 0 else -axes[2]
    R = np.stack([np.cross(axes[1], z), axes[1], z], axis=1)
    T = make_transform(R, camera_point.position + 0.02 * z)
    T_pre = make_transform(R, camera_point.position - 0.08 * z)
    return [Grasp(pose_from_matrix(T), pose_from_matrix(T_pre), width, 0.5)][:max_grasps]


def test_another_planner_takes_over(grounder: Grounder) -> None:
    grounder.planner = straight_down
    target = grounder.grasp(VIEW.frame, "the block").targets[0]
    assert target.status is Status.OK
    assert target.grasp is not None
    assert target.grasp.quality == 0.5
    assert target.grasp.width == pytest.approx(0.05, abs=0.02)
    assert matrix_from_quaternion(target.grasp.pose.orientation)[2, 2] > 0
    assert target.box is not None


def test_its_refusal_is_the_targets_status(grounder: Grounder) -> None:
    grounder.planner = straight_down
    grounder.gripper = Gripper("tiny hand", 0.01, 0.05, 0.02, 0.01, 0.02, (0.06, 0.2, 0.06), 0.1)
    target = grounder.grasp(VIEW.frame, "the block").targets[0]
    assert target.status is Status.TOO_WIDE
    assert "too wide" in target.status_text


def test_another_segmentation_takes_over(grounder: Grounder) -> None:
    asked: list[ImagePoint] = []

    def half(frame: RgbdFrame, point: ImagePoint) -> Mask:
        asked.append(point)
        mask = VIEW.mask()
        mask[:, : int(point.x)] = False
        return mask

    grounder.segmenter = half
    target = grounder.grasp(VIEW.frame, "the block").targets[0]
    assert [(p.x, p.y) for p in asked] == [(VIEW.middle().x, VIEW.middle().y)]
    assert target.segment is not None
    assert not np.any(target.segment.mask & ~VIEW.mask())
    assert np.count_nonzero(target.segment.mask) < 0.7 * np.count_nonzero(VIEW.mask())


def test_an_empty_mask_is_no_object(grounder: Grounder) -> None:
    grounder.segmenter = lambda frame, point: np.zeros(frame.depth.shape, dtype=np.bool_)
    assert grounder.grasp(VIEW.frame, "the block").targets[0].status is Status.NO_OBJECT
