"""Simulated depth sensors: each errs as its kind does, in ways that can be computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from molmo_ros.datatypes import Array, Depth
from molmo_ros.errors import FrameError, ParameterError
from molmo_ros.io import write_depth
from molmo_ros.sim.fields import smooth_field
from molmo_ros.sim.sensors import (
    DROPOUT,
    PERFECT,
    SENSORS,
    STEREO,
    STRUCTURED_LIGHT,
    TOF,
    SensorView,
    sensed_depth,
)
from molmo_ros.sim.skin import DARK, TRANSPARENT
from molmo_ros.sim.stereo import Stereo, shadow, stereo_depth
from molmo_ros.sim.tof import TimeOfFlight, tof_depth
from molmo_ros.tools.sensor_statistics import main, recorded, table, tally
from molmo_ros.tools.sensor_tally import border_holes, correlation_length, plane_patches, ramp_widths

F = 600.0
K = np.array([[F, 0, 319.5], [0, F, 239.5], [0, 0, 1]])
QUIET = Stereo(noise=0.0, wave=0.0, ragged=0.0, texture=0.0, lost=0.0, step=1e-4, check=0.0, doubt=0.0)
EXACT = TimeOfFlight(mixing=0.0, multipath=0.0, noise=0.0, wiggle=0.0, flying=9.0, weakest=0.0)


def grey(shape: tuple[int, int], level: int = 128) -> Array:
    return np.full((*shape, 3), level, np.uint8)


def block(near: float, far: float = 0.8, side: int = 160) -> Depth:
    """A flat block in the middle of a wall."""
    depth = np.full((480, 640), far, np.float32)
    depth[240 - side // 2 : 240 + side // 2, 320 - side // 2 : 320 + side // 2] = near
    return depth


def stereo(depth: Depth, camera: Stereo = QUIET, seed: int = 0, weak: Array | None = None) -> Depth:
    return stereo_depth(depth, grey(depth.shape), F, camera, np.random.default_rng(seed), weak)


@pytest.mark.parametrize("sensor", SENSORS)
@pytest.mark.parametrize("size", [(480, 640), (240, 320), (720, 1280), (123, 77)])
def test_every_sensor_works_at_every_size_and_repeats_itself(sensor: str, size: tuple[int, int]) -> None:
    depth = np.full(size, 0.7, np.float32)
    depth[: size[0] // 4] = np.nan
    view = SensorView(depth, grey(size))
    camera = K * np.array([[size[1] / 640], [size[1] / 640], [1]])
    first, again, other = (sensed_depth(view, camera, sensor, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.shape == size and first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert sensor == PERFECT or not np.array_equal(first, other, equal_nan=True)
    assert abs(np.nanmedian(first) - 0.7) < 0.01
    assert np.isnan(first[: size[0] // 6]).all(), "where nothing is, nothing is measured"


def test_an_unknown_sensor_is_named() -> None:
    with pytest.raises(ParameterError, match=r"'lidar'.*stereo"):
        sensed_depth(SensorView(block(0.6), grey((480, 640))), K, "lidar", np.random.default_rng(0))


def test_nothing_in_view_is_no_depth() -> None:
    nothing = SensorView(np.full((48, 64), np.nan, np.float32), grey((48, 64)))
    for sensor in SENSORS:
        assert np.isnan(sensed_depth(nothing, K, sensor, np.random.default_rng(0))).all()


def test_stereo_without_errors_is_true_within_a_millimetre() -> None:
    assert np.nanmax(np.abs(stereo(np.full((480, 640), 0.7, np.float32)) - 0.7)) <= 0.001


def test_a_low_step_becomes_a_ramp_and_a_high_one_stays_sharp() -> None:
    """Peak 3 px: 20 mm at .8 m are 1.1 px of disparity, 300 mm are 25 px."""
    camera = Stereo(**{**QUIET.__dict__, "peak_spread": 0.0})
    low = ramp_widths(stereo(block(0.77), camera)[200:280, 330:])
    assert min(low["20-60 mm"]) >= 0.5 * camera.window
    row = stereo(block(0.5), camera)[240, 380:430]
    between = np.isfinite(row) & (row > 0.51) & (row < 0.79)
    assert between.sum() <= 2


def test_what_is_lower_and_smaller_than_the_window_drowns() -> None:
    height = 0.8 - stereo(block(0.785, side=8))
    assert np.nanmax(height[200:280, 280:360]) < 0.010
    assert np.nanmax(0.8 - stereo(block(0.785, side=60))[200:280, 280:360]) > 0.013


def test_left_of_near_things_the_second_eye_sees_nothing() -> None:
    """The shadow of a block is as wide as the disparities differ: F b (1/.5 - 1/.8) = 24.75 px."""
    seen = stereo(block(0.5))
    hole = np.isnan(seen[240, 180:300])
    assert abs(hole.sum() - 24.75) <= 5
    assert np.isfinite(seen[240, 405:460]).all(), "none on the right"
    left, right = border_holes(seen)
    assert abs(np.median(left) - 24.75) <= 5 and np.median(right) <= 2


def test_the_left_border_is_as_wide_as_the_disparity() -> None:
    camera = Stereo(**{**QUIET.__dict__, "margin": 0.0})
    hole = np.isnan(stereo(np.full((480, 640), 0.6, np.float32), camera)).mean(0)
    assert abs(np.count_nonzero(hole) - F * camera.baseline / 0.6) <= 2
    assert hole[0] == 1


def test_a_fill_filter_leaves_no_shadow() -> None:
    filled = stereo(block(0.5), Stereo(**{**QUIET.__dict__, "fill": True}))
    assert np.isfinite(filled[240, 180:460]).all()
    assert abs(filled[240, 225] - 0.8) < 0.02, "from the farther side"


def test_shadow_by_hand() -> None:
    """The near pixel 6 lies at -7 in the right image, as pixel 3 does: what is between them is hidden."""
    disparity = np.array([[10, 10, 10, 10, 10, 10, 13, 13, 13.0]])
    expected = [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert shadow(disparity, 1.0, 0).astype(int).tolist() == [expected]


@pytest.mark.parametrize("distance", [0.5, 1.0])
def test_stereo_noise_grows_with_the_square_of_the_distance(distance: float) -> None:
    noise, baseline = 0.1, 0.05
    camera = Stereo(**{**QUIET.__dict__, "noise": noise, "baseline": baseline, "noise_size": 10.0})
    flat = np.full((480, 640), distance, np.float32)
    error = np.concatenate([stereo(flat, camera, seed)[:, 120:] - flat[:, 120:] for seed in range(3)])
    expected = 1.5 * noise * distance**2 / (F * baseline)  # 1.5: a plain wall has no contrast
    assert np.nanstd(error) == pytest.approx(expected, rel=0.15)


def test_errors_of_neighbours_are_alike() -> None:
    flat = np.full((480, 640), 0.9, np.float32)
    quick = stereo(flat, Stereo(**{**QUIET.__dict__, "noise": 0.1, "noise_size": 20.0}))
    assert 6 <= correlation_length(quick[:, 160:]) <= 16


def test_a_smooth_field_has_unit_deviation() -> None:
    rng = np.random.default_rng(0)
    for size in (1.0, 3.0, 12.0):
        assert smooth_field((480, 640), size, rng).std() == pytest.approx(1, abs=0.08)


def test_dark_and_clear_surfaces_lose_depth_and_show_what_is_behind() -> None:
    depth = block(0.6)
    inside = depth == depth.min()
    material = np.where(inside, TRANSPARENT, 0).astype(np.uint8)
    view = SensorView(depth, grey(depth.shape), material, np.full_like(depth, 0.8))
    middle = np.s_[180:300, 260:380]
    for sensor in (STEREO, STRUCTURED_LIGHT, TOF):
        seen = np.array([sensed_depth(view, K, sensor, np.random.default_rng(s))[middle] for s in range(8)])
        assert 0.05 < np.isnan(seen).mean() < 0.95, sensor
        assert 0.05 < (np.abs(seen - 0.8) < 0.02).mean() < 0.9, sensor
    dark = SensorView(depth, grey(depth.shape), np.where(inside, DARK, 0).astype(np.uint8))
    lost = [
        np.isnan(sensed_depth(dark, K, STEREO, np.random.default_rng(s))[middle]).mean() for s in range(8)
    ]
    bright = SensorView(depth, grey(depth.shape))
    none = [
        np.isnan(sensed_depth(bright, K, STEREO, np.random.default_rng(s))[middle]).mean() for s in range(8)
    ]
    assert np.mean(lost) > 0.1 + np.mean(none)


def test_structured_light_steps_grow_with_the_square_of_the_distance() -> None:
    def steps(distance: float) -> float:
        z = sensed_depth(
            SensorView(np.full((480, 640), distance, np.float32), grey((480, 640))),
            K,
            STRUCTURED_LIGHT,
            np.random.default_rng(0),
        )
        return float(np.diff(np.unique(z[np.isfinite(z)])).max())

    step = 0.125 / (F * 0.075)
    assert steps(1.5) == pytest.approx(step * 1.5**2, abs=0.0021)
    assert steps(3.0) == pytest.approx(step * 3.0**2, abs=0.003)


def test_time_of_flight_mixes_pixels_at_edges_and_has_no_shadow() -> None:
    def seen(camera: TimeOfFlight) -> Depth:
        return tof_depth(block(0.5), grey((480, 640)), K, camera, np.random.default_rng(0))

    flying = seen(EXACT)
    row = flying[240, 180:460]
    assert np.isfinite(row).all()
    assert 4 <= ((row > 0.51) & (row < 0.79)).sum() <= 20
    removed = seen(TimeOfFlight(**{**EXACT.__dict__, "flying": 0.02}))[240, 180:460]
    assert ((removed > 0.53) & (removed < 0.77)).sum() == 0
    assert 2 <= np.isnan(removed).sum() <= 30


def test_time_of_flight_sees_hollows_too_far_and_the_dark_with_noise() -> None:
    v = np.abs(np.arange(640) - 320)
    corner = np.tile(0.8 - 0.5 * v / F, (480, 1)).astype(np.float32)
    camera = TimeOfFlight(**{**EXACT.__dict__, "multipath": 0.3})
    error = tof_depth(corner, grey((480, 640)), K, camera, np.random.default_rng(0)) - corner
    assert error[240, 320] > 0.002
    assert abs(error[240, 100]) < 0.0015
    flat = np.full((480, 640), 0.8, np.float32)
    noisy = TimeOfFlight(**{**EXACT.__dict__, "noise": 0.001})
    bright, dark = (
        np.nanstd(tof_depth(flat, grey(flat.shape, level), K, noisy, np.random.default_rng(0)))
        for level in (230, 60)
    )
    assert dark > 2 * bright


def test_dropout_is_the_model_of_earlier_versions() -> None:
    from molmo_ros.sim.noise import NoiseModel, noisy_depth

    depth = block(0.6)
    seen = sensed_depth(SensorView(depth, grey(depth.shape)), K, DROPOUT, np.random.default_rng(3))
    np.testing.assert_array_equal(seen, noisy_depth(depth, F, NoiseModel(), np.random.default_rng(3)))


def test_the_camera_sees_with_a_sensor() -> None:
    pytest.importorskip("open3d", reason="scenes are rendered with open3d")
    from molmo_ros.sim import SimCamera

    with pytest.raises(ParameterError, match="lidar"):
        SimCamera(1, 64, 48, sensor="lidar")
    perfect = SimCamera(1, 64, 48, sensor=PERFECT)
    np.testing.assert_array_equal(perfect.frame().depth, perfect.truth.depth)
    stereo_camera = SimCamera(1, 64, 48, sensor=STEREO)
    first, second = stereo_camera.frame().depth, stereo_camera.frame().depth
    assert not np.array_equal(first, second, equal_nan=True)


def test_statistics_measure_what_is_put_in() -> None:
    ramp = np.full((40, 100), 0.8, np.float32)
    ramp[:, 60:] = 0.9
    ramp[:, 40:60] = np.linspace(0.8, 0.9, 20)
    widths = ramp_widths(ramp)["60-250 mm"]
    assert widths and set(widths) <= set(range(14, 18))
    assert ramp_widths(ramp)["20-60 mm"] == []
    v, u = np.mgrid[:480, :640]
    plane = 1 / (1.0 + 0.0005 * v + 0.0002 * u)
    rng = np.random.default_rng(0)
    wavy = 1 / (1 / plane + 0.002 * smooth_field((480, 640), 6.0, rng))
    local, wide, size = np.median(plane_patches(wavy), axis=0)
    assert local == pytest.approx(2.0, rel=0.2)
    assert 2 <= size <= 5
    assert wide < 0.6


def test_stereo_is_like_real_frames() -> None:
    """Numbers of nine frames of a RealSense D400 (docs/sensors.md), within a factor."""
    depths = []
    for seed in range(3):
        depth = block(0.8 - 0.02 * (seed + 1), 0.85)
        depth[:, :] += np.linspace(0.15, -0.15, 480, dtype=np.float32)[:, None]
        view = SensorView(depth, grey(depth.shape))
        depths.append(sensed_depth(view, K, STEREO, np.random.default_rng(seed)))
    t = tally(depths)
    assert 1.0 < np.median(t.local) < 4.4  # real 2.2 mm at 1 m
    assert 5 <= np.median(t.size) <= 22  # real 11 px
    assert "plane: correlation length" in table({"stereo": t})


def test_a_folder_without_depth_is_told(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"no \*-depth.png"):
        list(recorded(tmp_path))
    write_depth(tmp_path / "a-depth.png", np.ones((24, 32), np.float32))
    with pytest.raises(FrameError, match="32 wide"):
        list(recorded(tmp_path))


def test_the_table_and_the_picture_of_one_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("open3d", reason="scenes are rendered with open3d")
    pytest.importorskip("mujoco", reason="scenes come to rest in mujoco")
    main(["--frames", "1", "--picture", str(tmp_path / "sensors.png")])
    told = capsys.readouterr().out
    assert "matched" in told and "holes, % of the image" in told
    assert (tmp_path / "sensors.png").stat().st_size > 10_000
