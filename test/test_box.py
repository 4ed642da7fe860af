from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from solids import View, block, can, look, sphere

from molmo_ros.datatypes import OrientedBox
from molmo_ros.perception.box import oriented_box
from molmo_ros.transforms import pose_matrix


def boxed(view: View) -> tuple[OrientedBox, np.ndarray]:
    """Return the box, and its pose (4,4) in the world."""
    box = oriented_box(view.segment(), view.up)
    return box, view.T_world_camera @ pose_matrix(box.pose)


@pytest.mark.parametrize("yaw", [0.0, 0.5, 1.1, 2.0])
def test_a_block_is_measured(yaw: float) -> None:
    box, T = boxed(look(block(0.02, -0.01, (0.10, 0.06, 0.05), yaw), noise=1))
    assert box.size == pytest.approx([0.10, 0.06, 0.05], abs=0.006)
    assert T[:3, 3] == pytest.approx([0.02, -0.01, 0.025], abs=0.004)
    assert T[2, 2] > np.cos(np.radians(2))  # z is up
    assert abs(T[:2, 0] @ [np.cos(yaw), np.sin(yaw)]) > np.cos(np.radians(5))  # x along the longer side


@pytest.mark.parametrize(
    ("solid", "size"),
    [(can(0, 0, 0.03, 0.12), (0.06, 0.06, 0.12)), (sphere(0, 0, 0.035), (0.07, 0.07, 0.07))],
    ids=["can", "ball"],
)
def test_round_things_are_measured_to_their_far_side(solid: object, size: tuple[float, ...]) -> None:
    box, T = boxed(look(solid, noise=1))  # type: ignore[arg-type]
    assert box.size == pytest.approx(size, abs=0.010)
    assert T[:3, 3] == pytest.approx([0, 0, size[2] / 2], abs=0.006)


def test_a_thing_without_known_support_ends_with_its_points() -> None:
    view = look(block(0, 0, (0.10, 0.06, 0.05)))
    box = oriented_box(replace(view.segment(), plane=None), view.up)
    assert box.size[2] == pytest.approx(0.05 - 0.006, abs=0.004)  # the lowest 6 mm are taken for table
    assert (view.T_world_camera @ pose_matrix(box.pose))[2, 2] > np.cos(np.radians(2))
