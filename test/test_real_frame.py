"""A mug seen by a real stereo camera (test/data/stereo_mug): what is found and held there is the mug."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from molmo_ros.datatypes import GraspTarget, TargetStatus
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.target import find_target
from molmo_ros.tools.objects.layout import read_folder

FOLDER = Path(__file__).parent / "data" / "stereo_mug"


@pytest.fixture(scope="module")
def targets() -> dict[str, GraspTarget]:
    (mug,) = read_folder(FOLDER)
    gripper = Gripper.load("franka_hand")
    return {label.name: find_target(mug.frame, label.point, gripper) for label in mug.points}


@pytest.mark.parametrize("name", ["wall", "rim", "inside"])
def test_the_mug_is_found_and_held_by_its_wall(targets: dict[str, GraspTarget], name: str) -> None:
    target = targets[name]
    assert target.status is TargetStatus.OK, target.status_text
    assert target.grasp is not None and target.box is not None and target.segment is not None
    *across, height = target.box.size
    assert 0.08 < min(across) < 0.1 and max(across) < 0.13  # with its handle, or without
    assert 0.1 < height < 0.12
    assert target.grasp.quality > 0.7
    assert target.grasp.width < 0.02
    assert target.position is not None
    assert np.linalg.norm(target.grasp.pose.position - target.position) < 0.05


def test_a_point_on_the_handle_gets_the_mug_or_nothing(targets: dict[str, GraspTarget]) -> None:
    handle, wall = targets["handle"], targets["wall"]
    assert handle.status in (TargetStatus.OK, TargetStatus.AMBIGUOUS, TargetStatus.COLLISION)
    if handle.grasp is not None:
        assert wall.box is not None
        away = handle.grasp.pose.position - wall.box.pose.position
        assert np.linalg.norm(away) < 0.12


def test_the_bare_table_is_no_object(targets: dict[str, GraspTarget]) -> None:
    assert targets["table"].status is TargetStatus.NO_OBJECT
