from __future__ import annotations

import numpy as np
import pytest

from molmo_ros.datatypes import Array
from molmo_ros.perception.plane import support_frame, support_plane
from molmo_ros.transforms import frame_with_z, transform_points

UP = np.array([0.1, -0.8, -0.6])
UP = UP / np.linalg.norm(UP)


def patch(height: float, size: float, count: int, seed: int, noise: float = 0.001) -> Array:
    """Return points of a level square, `height` m above a table 0.5 m from the camera."""
    rng = np.random.default_rng(seed)
    flat = rng.uniform(-size / 2, size / 2, (count, 2))
    local = np.column_stack([flat, height + rng.normal(0, noise, count)])
    return local @ frame_with_z(UP, np.array([0, 0, 1.0])).T - 0.5 * UP + np.array([0, 0, 0.3])


@pytest.mark.parametrize("up", [None, UP, frame_with_z(UP, np.array([1.0, 0, 0])) @ [0.2, 0, 0.98]])
def test_the_table_is_found_under_a_large_box(up: Array | None) -> None:
    """More points lie on the lid than on the table, but the table has nothing below it."""
    table, lid = patch(0.0, 0.4, 1500, 1), patch(0.1, 0.2, 2000, 2)
    plane = support_plane(np.concatenate([table, lid]), lid.mean(axis=0), 0.004, up)
    assert plane is not None
    assert np.degrees(np.arccos(plane[:3] @ UP)) < 0.5
    assert np.mean(np.abs(table @ plane[:3] + plane[3])) < 0.0012
    assert lid.mean(axis=0) @ plane[:3] + plane[3] == pytest.approx(0.1, abs=0.001)


def test_nothing_flat_gives_no_plane() -> None:
    cloud = np.random.default_rng(0).uniform(-0.2, 0.2, (4000, 3)) + np.array([0, 0, 0.6])
    assert support_plane(cloud, np.array([0, 0, 0.5]), 0.004) is None
    assert support_plane(cloud[:20], np.array([0, 0, 0.5]), 0.004) is None


def test_a_wall_is_no_support_if_up_is_known() -> None:
    table = patch(0.0, 0.4, 3000, 1)
    sideways = np.cross(UP, [1.0, 0, 0])
    assert support_plane(table, table.mean(axis=0), 0.004, sideways / np.linalg.norm(sideways)) is None


def test_the_support_is_below_the_point() -> None:
    shelf, floor = patch(0.3, 0.4, 3000, 1), patch(0.0, 0.4, 1000, 2)
    plane = support_plane(np.concatenate([shelf, floor]), floor.mean(axis=0) + 0.02 * UP, 0.004, UP)
    assert plane is None or abs(floor.mean(axis=0) @ plane[:3] + plane[3]) < 0.002


def test_support_frame_has_the_table_at_zero_and_the_object_above_the_origin() -> None:
    cloud = patch(0.05, 0.1, 500, 3)
    plane = np.append(UP, 0.5 - UP @ np.array([0, 0, 0.3]))
    local = transform_points(support_frame(plane, None, cloud), cloud)
    assert local.mean(axis=0) == pytest.approx([0, 0, 0.05], abs=3e-4)


def test_without_a_table_the_lowest_point_is_zero() -> None:
    cloud = patch(0.05, 0.1, 500, 3)
    local = transform_points(support_frame(None, UP, cloud), cloud)
    assert local[:, 2].min() == pytest.approx(0)
    assert np.ptp(local[:, 2]) < 0.01
