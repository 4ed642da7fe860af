from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo_ros.errors import DepthError
from molmo_ros.perception.depth import DEFAULT_DEPTH, robust_depth, valid_depth

FX = 600.0


def wall(z: float = 0.8) -> np.ndarray:
    return np.full((60, 80), z, np.float32)


def test_a_wall_is_where_it_is() -> None:
    reading = robust_depth(wall(), 40, 30, FX)
    assert reading.z == pytest.approx(0.8, abs=1e-6)
    assert reading.ambiguity == 0
    assert reading.gap_m == 0
    assert reading.hole_px == 0
    assert reading.slope == pytest.approx([0, 0], abs=1e-9)
    # one reading: z^2 s / (f B) + floor = 0.64 * 0.08 / (600 * 0.05) + 0.0005; more of them err alike
    assert reading.sigma_m == pytest.approx(np.hypot(0.002, 0.0017067 + 0.0005), rel=1e-4)


@pytest.mark.parametrize("nothing", [np.nan, 0.0, np.inf, -np.inf, -1.0, 65.535])  # the last: saturated 16UC1
def test_what_is_no_depth_is_not_read(nothing: float) -> None:
    depth = wall()
    depth[28:33, 38:43] = nothing  # the pixel itself and 24 around it
    reading = robust_depth(depth, 40, 30, FX)
    assert reading.z == pytest.approx(0.8, abs=1e-6)
    assert reading.hole_px == pytest.approx(3.0)


def test_the_near_thing_under_the_pixel_wins_over_the_background() -> None:
    depth = wall(1.0)
    depth[:, 38:43] = 0.7  # a pole of 5 px
    reading = robust_depth(depth, 40, 30, FX)
    assert reading.z == pytest.approx(0.7, abs=1e-6)
    assert reading.gap_m == pytest.approx(0.3, abs=1e-6)
    # the weight of |u| > 2 px under a Gaussian of 2.5 px, cut at 5 px
    u = np.arange(-5, 6)
    w = np.exp(-0.5 * (u / 2.5) ** 2)
    assert reading.ambiguity == pytest.approx(w[np.abs(u) > 2].sum() / w.sum(), abs=0.01)


def test_the_background_wins_beside_the_near_thing() -> None:
    depth = wall(1.0)
    depth[:, 30:37] = 0.7
    assert robust_depth(depth, 40, 30, FX).z == pytest.approx(1.0, abs=1e-6)


def test_a_hole_is_as_large_as_its_angle_not_as_its_pixels() -> None:
    """What is bridged at 640x480 is bridged at twice the resolution, and what is not is not."""
    depth = np.full((160, 160), 0.8, np.float32)
    depth[64:97, 64:97] = np.nan  # 33 px, all of a window of 25
    with pytest.raises(DepthError, match="0% of 25 px"):
        robust_depth(depth, 80, 80, FX)
    assert robust_depth(depth, 80, 80, 2 * FX).z == pytest.approx(0.8, abs=1e-6)
    depth[50:111, 50:111] = np.nan
    with pytest.raises(DepthError, match="0% of 49 px"):
        robust_depth(depth, 80, 80, 2 * FX)


def test_a_flying_pixel_is_ignored() -> None:
    depth = wall()
    depth[30, 40] = 0.45
    assert robust_depth(depth, 40, 30, FX).z == pytest.approx(0.8, abs=1e-6)


def test_slope_is_that_of_the_plane() -> None:
    v, u = np.mgrid[:60, :80]
    inverse = 1.25 + 0.002 * (u - 40) - 0.004 * (v - 30)
    reading = robust_depth((1 / inverse).astype(np.float32), 40, 30, FX)
    assert reading.z == pytest.approx(0.8, abs=2e-3)
    assert reading.slope == pytest.approx([0.002, -0.004], rel=1e-3)


def test_a_larger_window_helps_over_a_hole() -> None:
    depth = wall()
    depth[24:37, 34:47] = np.nan  # larger than the first window
    reading = robust_depth(depth, 40, 30, FX)
    assert reading.z == pytest.approx(0.8, abs=1e-6)
    assert reading.hole_px == pytest.approx(7.0)


def two_things() -> tuple[np.ndarray, np.ndarray]:
    """A red thing at 0.7 m, left of column 40, before a grey wall at 1 m; colour and depth."""
    rgb, depth = np.full((60, 80, 3), 150, np.uint8), wall(1.0)
    rgb[:, :40], depth[:, :40] = (200, 40, 40), 0.7
    return rgb, depth


def test_a_hole_is_filled_from_the_same_thing() -> None:
    """Hardly any depth is left of the thing around the point, and much of the wall: the thing it is."""
    rgb, depth = two_things()
    depth[22:39, 30:41] = np.nan
    reading = robust_depth(depth, 37, 30, FX, rgb=rgb)
    assert reading.z == pytest.approx(0.7, abs=1e-6)
    assert reading.hole_px == pytest.approx(8.0)
    assert robust_depth(depth, 37, 30, FX).z == pytest.approx(1.0, abs=1e-6)  # without colour


def test_a_hole_is_not_filled_from_another_thing() -> None:
    rgb, depth = two_things()
    depth[:, 20:41] = np.nan  # nothing of the thing within reach, and the wall beside it
    with pytest.raises(DepthError, match="differs in colour") as caught:
        robust_depth(depth, 37, 30, FX, rgb=rgb)
    assert caught.value.code == "NO_DEPTH"


def test_the_same_colour_elsewhere_is_not_the_same_thing() -> None:
    """A second red thing, in sight of the window, but with grey in between."""
    rgb, depth = two_things()
    depth[:, 20:41] = np.nan
    rgb[:, 43:], depth[:, 43:] = (200, 40, 40), 0.9
    with pytest.raises(DepthError, match="differs in colour"):
        robust_depth(depth, 37, 30, FX, rgb=rgb)


def test_a_hole_at_the_outline_is_filled_from_the_thing_not_from_the_table_of_its_colour() -> None:
    """At the rim of the hole there is more of the table than of the thing, and colour does not tell."""
    rgb, depth = np.full((60, 80, 3), 150, np.uint8), wall(1.0)
    depth[:, :39] = 0.7
    depth[25:36, 35:46] = np.nan
    assert robust_depth(depth, 40, 30, FX, rgb=rgb).z == pytest.approx(0.7, abs=1e-6)
    depth[:, 34:39] = 1.0  # now the thing is too far away to be meant
    assert robust_depth(depth, 40, 30, FX, rgb=rgb).z == pytest.approx(1.0, abs=1e-6)


def test_single_lost_pixels_need_no_colour() -> None:
    rgb, depth = two_things()
    rgb[30, 20], depth[30, 20] = 255, np.nan  # a highlight
    assert robust_depth(depth, 20, 30, FX, rgb=rgb).z == pytest.approx(0.7, abs=1e-6)


def test_a_hole_is_bridged_along_the_slope_but_not_beyond_its_rim() -> None:
    _, u = np.mgrid[:60, :80]
    plane = (1 / (1.25 + 0.001 * (u - 40))).astype(np.float32)
    depth = plane.copy()
    depth[24:37, 36:45] = np.nan
    assert robust_depth(depth, 40, 30, FX).z == pytest.approx(0.8, abs=1e-5)
    depth[:, 36:] = np.nan  # the rim is on one side: what lies beyond is not known
    assert robust_depth(depth, 40, 30, FX).z == pytest.approx(plane[30, 35], abs=1e-5)


def test_the_own_pixel_is_no_hole() -> None:
    depth = wall()
    depth[30, 41] = np.nan
    assert robust_depth(depth, 40.4, 30.4, FX).hole_px == 0
    assert robust_depth(depth, 41, 30, FX).hole_px == pytest.approx(1.0)


def test_no_depth_at_all_is_an_error() -> None:
    with pytest.raises(DepthError, match=r"0% .* \(40, 30\) have depth") as caught:
        robust_depth(np.full((60, 80), np.nan, np.float32), 40, 30, FX)
    assert caught.value.code == "NO_DEPTH"


@pytest.mark.parametrize("z", [0.05, 6.0])
def test_out_of_range_has_its_own_code(z: float) -> None:
    with pytest.raises(DepthError, match=f"{z:.2f} m") as caught:
        robust_depth(wall(z), 40, 30, FX)
    assert caught.value.code == "OUT_OF_RANGE"


def test_millimetres_are_recognised() -> None:
    with pytest.raises(DepthError, match="millimetres"):
        robust_depth(wall(800.0), 40, 30, FX)


@pytest.mark.parametrize(("x", "y"), [(-5, 30), (90, 30), (40, 200), (np.nan, 30)])
def test_a_point_outside_the_image_is_refused(x: float, y: float) -> None:
    with pytest.raises(DepthError, match="outside the image of 80x60"):
        robust_depth(wall(), x, y, FX)


@given(st.floats(-0.5, 79.5), st.floats(-0.5, 59.5))
def test_every_pixel_of_a_wall_reads_the_same(x: float, y: float) -> None:
    assert robust_depth(wall(), x, y, FX).z == pytest.approx(0.8, abs=1e-6)


def test_noise_is_averaged() -> None:
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(50):
        depth = (wall() + rng.normal(0, 0.004, (60, 80))).astype(np.float32)
        errors.append(robust_depth(depth, 40, 30, FX).z - 0.8)
    assert np.std(errors) < 0.001
    assert abs(np.mean(errors)) < 0.0005


def test_valid_depth_knows_the_limits() -> None:
    depth = np.array([[np.nan, 0, np.inf, 0.05, 0.1, 4.0, 4.1, -1]], np.float32)
    depth[0, 4] = 0.11
    assert np.flatnonzero(valid_depth(depth, DEFAULT_DEPTH)).tolist() == [4, 5]
