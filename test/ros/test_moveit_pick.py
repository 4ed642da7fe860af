"""The MoveIt example, up to the calls of MoveIt itself, with a real node and its real messages."""

from __future__ import annotations

import importlib.util
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from ros_helpers import ABSENT, FRAME, GOOD, Camera

from molmo_ros.msg import GraspTarget
from molmo_ros.ros.client import GraspClient
from molmo_ros.transforms import matrix_from_quaternion

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "moveit_pick.py"


@pytest.fixture(scope="module")
def pick() -> ModuleType:
    """The example as a module; in its frames there is no robot, so the camera is the base."""
    spec = importlib.util.spec_from_file_location("moveit_pick", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BASE = FRAME
    return module


@pytest.fixture
def target(pick: ModuleType, camera: Camera, client: GraspClient) -> GraspTarget:
    camera.show()
    return pick.best_target(client, GOOD)


def test_the_best_target_can_be_grasped(target: GraspTarget) -> None:
    assert target.status == GraspTarget.OK and target.header.frame_id == FRAME
    assert 0.0 < target.width <= target.opening <= 0.08


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": GraspTarget.COLLISION, "status_text": "why"}, "why"),
        ({"confidence": 0.4}, "confidence 0.40"),
        ({"confidence": float("nan")}, "confidence nan"),
        ({"quality": 0.1}, "quality"),
        ({"position_covariance": [1e-3 * (i % 4 == 0) for i in range(9)]}, "known to 32 mm"),
        ({"position_covariance": [float("nan")] * 9}, "known to nan"),
        ({"age": 60.0}, "60.0 s old"),
    ],
)
def test_what_speaks_against_a_target(
    pick: ModuleType, target: GraspTarget, change: dict[str, Any], reason: str
) -> None:
    stamp = target.header.stamp
    now_s = stamp.sec + stamp.nanosec * 1e-9
    assert pick.objection(target, now_s) == ""
    worse = deepcopy(target)
    later_s = change.pop("age", 0.0)
    if "confidence" in change:
        worse.point.confidence = change.pop("confidence")
    for name, value in change.items():
        setattr(worse, name, value)
    assert reason in pick.objection(worse, now_s + later_s)


def test_without_a_target_the_reason_is_told(pick: ModuleType, camera: Camera, client: GraspClient) -> None:
    camera.show()
    with pytest.raises(SystemExit, match="not there"):
        pick.best_target(client, ABSENT)


def test_the_steps_of_a_pick(pick: ModuleType, target: GraspTarget) -> None:
    steps = dict(pick.pick_steps(target))
    assert list(steps) == ["open", "above", "grasp", "close", "lift"]
    assert steps["open"] == target.opening
    assert 0.0 <= steps["close"] < target.width  # the fingers press
    above, grasp, lift = (steps[name] for name in ("above", "grasp", "lift"))
    assert all(
        isinstance(step, PoseStamped) and step.header.frame_id == FRAME for step in (above, grasp, lift)
    )
    way = position(grasp) - position(above)
    q = grasp.pose.orientation
    approach = matrix_from_quaternion(np.array([q.x, q.y, q.z, q.w]))[:, 2]
    assert np.allclose(way / np.linalg.norm(way), approach, atol=1e-6)  # straight in, along z of the hand
    assert np.allclose(position(lift) - position(grasp), [0, 0, pick.LIFT_M])
    assert lift.pose.orientation == grasp.pose.orientation == above.pose.orientation
    assert grasp.pose == target.grasp_pose  # lifting has not moved it


def position(pose: PoseStamped) -> np.ndarray:
    at = pose.pose.position
    return np.array([at.x, at.y, at.z])
