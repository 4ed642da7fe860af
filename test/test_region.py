from __future__ import annotations

import numpy as np
import pytest

from molmo_ros.datatypes import ImagePoint, RgbdFrame, TargetStatus
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.perception.depth import DepthOptions
from molmo_ros.perception.region import Region
from molmo_ros.target import find_target

K = np.array([[300.0, 0, 79.5], [0, 310.0, 59.5], [0, 0, 1]])
WALL = np.array([0.0, 0.0, -1.0, 0.5])  # height is the distance in front of z = 0.5


def frame_of(depth: np.ndarray) -> RgbdFrame:
    return RgbdFrame(np.zeros((*depth.shape, 3), np.uint8), depth.astype(np.float32), K)


def around(frame: RgbdFrame, seed: tuple[float, float, float], spacing: float = 0.005) -> Region:
    return Region.around(frame, np.array(seed), 0.1, spacing, DepthOptions())


def flat_with_a_step() -> np.ndarray:
    depth = np.full((120, 160), 0.5)
    depth[40:70, 50:90] = 0.45
    return depth


def test_cells_are_points_of_their_pixels() -> None:
    frame = frame_of(flat_with_a_step())
    region = around(frame, (0.0, 0.0, 0.45))
    cells = region.above(WALL, 0.01)
    assert region.stride == 3
    assert len(cells.v) == pytest.approx(30 * 40 / 9, rel=0.1)
    rays = np.column_stack([cells.u, cells.v, np.ones(len(cells.v))]) @ np.linalg.inv(K).T
    assert cells.points == pytest.approx(0.45 * rays, abs=1e-6)
    assert np.all(cells.points[:, 2] == pytest.approx(0.45))


@pytest.mark.parametrize("corner", [(0, 0), (70, 100), (90, 120)])
def test_the_full_mask_is_as_fine_as_the_image_up_to_its_border(corner: tuple[int, int]) -> None:
    depth = np.full((120, 160), 0.5)
    truth = np.zeros(depth.shape, dtype=bool)
    truth[corner[0] : corner[0] + 30, corner[1] : corner[1] + 40] = True
    depth[truth] = 0.45
    frame = frame_of(depth)
    middle = np.array([corner[1] + 20 - K[0, 2], corner[0] + 15 - K[1, 2], 0]) / [K[0, 0], K[1, 1], 1] * 0.45
    region = around(frame, (*middle[:2], 0.45), spacing=0.009)
    assert region.stride == 6
    mask = region.full_mask(frame, region.above(WALL, 0.01), WALL, 0.01)
    assert not (mask & ~truth).any()
    # what the coarse grid does not reach is a border of less than a stride
    assert np.count_nonzero(truth & ~mask) <= 6 * (30 + 40)


def test_a_flying_pixel_is_not_attached() -> None:
    depth = flat_with_a_step()
    depth[55, 50:90] = 0.45
    depth[20, 20] = 0.3
    frame = frame_of(depth)
    region = around(frame, (0.0, 0.0, 0.45), spacing=0.001)
    cells = region.above(WALL, 0.01)
    attached = region.attached(frame, cells)
    alone = (cells.v == 20) & (cells.u == 20)
    assert np.count_nonzero(alone) == 1
    assert not attached[alone].any()
    assert attached[~alone].all()


def test_lost_and_far_depth_is_left_out() -> None:
    depth = flat_with_a_step()
    depth[:, :60] = np.nan
    depth[:, 100:] = 3.0
    region = around(frame_of(depth), (0.0, 0.0, 0.45), spacing=0.001)
    cells = region.above(None, 0.0)
    assert cells.u.min() == 60
    assert cells.u.max() == 99


@pytest.mark.parametrize("corner", [(0, 0), (15, 7)])
@pytest.mark.parametrize("focal", [5.0, 50.0])
def test_a_far_point_in_the_corner_of_a_small_image_gets_a_status(
    corner: tuple[int, int], focal: float
) -> None:
    wide = np.array([[focal, 0, 8.0], [0, focal, 4.0], [0, 0, 1]])
    frame = RgbdFrame(np.zeros((8, 16, 3), np.uint8), np.full((8, 16), 3.9, np.float32), wide)
    target = find_target(frame, ImagePoint(*map(float, corner), "it"), Gripper.load("franka_hand"))
    assert target.status is TargetStatus.NO_OBJECT
