"""Lens distortion: a raw image gives the same positions as a pinhole camera's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from molmo_ros import io
from molmo_ros.datatypes import (
    Answer,
    Array,
    GraspTarget,
    Grounding,
    ImagePoint,
    Lens,
    RgbdFrame,
    TargetStatus,
)
from molmo_ros.errors import CameraInfoError
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.rectify import distort, is_rectified, make_lens, raw_grounding, raw_point, rectify

K = np.array([[520.0, 0, 322.0], [0, 522.0, 236.0], [0, 0, 1]])
K_NEW = np.array([[480.0, 0, 319.5], [0, 480.0, 239.5], [0, 0, 1]])
SIZE = (640, 480)
D: dict[str, list[float]] = {
    "plumb_bob": [-0.28, 0.09, 0.001, -0.0015, -0.01],
    "rational_polynomial": [0.6, -0.2, 0.0006, -0.0004, 0.05, 0.95, -0.3, 0.02],
    "equidistant": [-0.04, 0.01, -0.006, 0.001],
}
# Towards the corners, where lenses bend; all in sight of both cameras.
POINTS = np.array(
    [[0.26, -0.19, 0.7], [-0.28, 0.2, 0.75], [0.33, 0.22, 0.9], [-0.3, -0.22, 0.85], [0.1, 0, 0.6]]
)
RADIUS = 6  # px, of the disc that stands for a point


def lens_of(model: str, K_new: Array = K_NEW) -> Lens:
    lens = make_lens(model, D[model], K, np.eye(3), K_new, SIZE)
    assert lens is not None
    return lens


def project(points: Array, model: str) -> Array:
    """(N,3) m -> (N,2) px of the raw image, by OpenCV itself."""
    function: Any = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    raw = function(points.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), K, np.array(D[model]))[0]
    return np.asarray(raw).reshape(-1, 2)


def raw_frame(model: str) -> RgbdFrame:
    """Discs of constant z, number i with colour i, over a wall; a hole beside them."""
    rgb, depth = np.zeros((480, 640, 3), np.uint8), np.full((480, 640), 1.5, np.float32)
    y, x = np.mgrid[:480, :640]
    for number, ((u, v), z) in enumerate(zip(project(POINTS, model), POINTS[:, 2], strict=True), 1):
        disc = (x - u) ** 2 + (y - v) ** 2 <= RADIUS**2
        rgb[disc], depth[disc] = 40 * number, z
    depth[200:230, 200:230] = np.nan
    return RgbdFrame(rgb, depth, K)


def centre(frame: RgbdFrame, number: int) -> ImagePoint:
    """Of a disc by its depth, which no interpolation may have touched; colour must agree."""
    v, u = np.nonzero(frame.depth == np.float32(POINTS[number - 1, 2]))
    assert frame.rgb[round(v.mean()), round(u.mean()), 0] == 40 * number
    return ImagePoint(float(u.mean()), float(v.mean()), "disc")


@pytest.mark.parametrize("model", D)
def test_positions_are_right_only_after_rectification(model: str) -> None:
    raw = raw_frame(model)
    frame = rectify(raw, lens_of(model))
    assert np.array_equal(frame.K, K_NEW)
    errors, errors_raw = [], []
    for number, true in enumerate(POINTS, 1):
        errors.append(np.linalg.norm(lift_point(frame, centre(frame, number)).position - true))
        errors_raw.append(np.linalg.norm(lift_point(raw, centre(raw, number)).position - true))
    assert max(errors) < 0.002, errors
    assert min(errors_raw[:4]) > 0.010, errors_raw


@pytest.mark.parametrize("model", D)
def test_points_go_back_to_the_raw_image(model: str) -> None:
    lens = lens_of(model)
    pixels = (POINTS / POINTS[:, 2:]) @ K_NEW.T
    np.testing.assert_allclose(distort(pixels[:, :2], lens), project(POINTS, model), atol=1e-6)
    spread = np.array([[4.0, 1.0], [1.0, 2.0]])
    point = ImagePoint(*pixels[0, :2], "disc", covariance=spread)
    back = raw_point(point, lens)
    assert (back.x, back.y) == pytest.approx(tuple(project(POINTS[:1], model)[0]))
    rng = np.random.default_rng(0)
    drawn = distort(rng.multivariate_normal(pixels[0, :2], spread, 20_000), lens)
    np.testing.assert_allclose(back.covariance, np.cov(drawn.T), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("model", D)
def test_holes_stay_holes_and_edges_stay_edges(model: str) -> None:
    raw = raw_frame(model)
    wide = np.array([[300.0, 0, 320.0], [0, 300.0, 240.0], [0, 0, 1]])  # sees beyond the raw image
    lens = lens_of(model, wide)
    frame = rectify(raw, lens)
    known = frame.depth[np.isfinite(frame.depth)]
    assert set(np.unique(known)) <= set(np.unique(raw.depth[np.isfinite(raw.depth)]))
    v, u = np.nonzero(np.isnan(frame.depth))
    sources = distort(np.column_stack([u, v]), lens)
    inside = ((sources > 199) & (sources < 231)).all(axis=1)
    outside = ((sources < 0) | (sources > np.array(SIZE) - 1)).any(axis=1)
    assert inside.sum() > 100
    assert (inside | outside).all()
    assert frame.depth.dtype == np.float32


def test_without_distortion_nothing_is_touched() -> None:
    frame = raw_frame("plumb_bob")
    assert make_lens("plumb_bob", [0.0] * 5, K, np.eye(3), K_NEW, SIZE) is None
    assert make_lens("", [], K, None, K_NEW, SIZE) is None
    assert rectify(frame, None) is frame
    point = ImagePoint(3.0, 4.0, "disc")
    assert raw_point(point, None) is point


def test_a_whole_answer_goes_back() -> None:
    lens = lens_of("plumb_bob")
    point = ImagePoint(60.0, 50.0, "disc")
    target = GraspTarget(point, TargetStatus.OK, "", "eye", 0)
    told = raw_grounding(Grounding("disc", Answer("", (point,)), (target,)), lens)
    assert told.targets[0].point.x == told.answer.points[0].x == raw_point(point, lens).x != 60.0


@pytest.mark.parametrize(
    ("model", "coefficients", "word"),
    [
        ("omni", [0.1] * 4, r"'omni'.*plumb_bob, rational_polynomial, equidistant"),
        ("", [0.1] * 5, "''"),
        ("plumb_bob", [0.1] * 8, "8 distortion coefficients"),
        ("rational_polynomial", [0.1] * 5, "8 or 12 or 14"),
        ("equidistant", [0.1] * 5, "5 distortion coefficients"),
        ("plumb_bob", [np.nan] * 5, "finite"),
    ],
)
def test_what_is_not_known_is_refused(model: str, coefficients: list[float], word: str) -> None:
    with pytest.raises(CameraInfoError, match=word):
        make_lens(model, coefficients, K, np.eye(3), K_NEW, SIZE)


def test_a_turned_camera() -> None:
    """R of a stereo pair: positions are those of the rectified camera, whose axis is another one."""
    R = cv2.Rodrigues(np.array([0.05, -0.08, 0.02]))[0]  # rectified from raw
    seen = POINTS @ R  # the same points, from the raw camera
    rgb, depth = np.zeros((480, 640, 3), np.uint8), np.full((480, 640), 1.5, np.float32)
    y, x = np.mgrid[:480, :640]
    for number, ((u, v), z) in enumerate(zip(project(seen, "plumb_bob"), seen[:, 2], strict=True), 1):
        disc = (x - u) ** 2 + (y - v) ** 2 <= RADIUS**2
        rgb[disc], depth[disc] = 40 * number, z
    lens = make_lens("plumb_bob", D["plumb_bob"], K, R, K_NEW, SIZE)
    assert lens is not None
    frame = rectify(RgbdFrame(rgb, depth, K), lens)
    pixels = (POINTS / POINTS[:, 2:]) @ K_NEW.T
    for number, (true, (u, v, _)) in enumerate(zip(POINTS, pixels, strict=True), 1):
        assert frame.rgb[round(v), round(u), 0] == pytest.approx(40 * number, abs=2)
        found = lift_point(frame, ImagePoint(float(u), float(v), "disc")).position
        assert np.linalg.norm(found - true) < 0.002
        assert abs(seen[number - 1, 2] - true[2]) > 0.005 or number == 5  # z must have been turned, too
    np.testing.assert_allclose(distort(pixels[:, :2], lens), project(seen, "plumb_bob"), atol=1e-6)


def test_a_rotation_that_is_none_is_refused() -> None:
    with pytest.raises(CameraInfoError, match="no rotation"):
        make_lens("plumb_bob", D["plumb_bob"], K, 2 * np.eye(3), K_NEW, SIZE)
    with pytest.raises(CameraInfoError, match="no rotation"):
        make_lens("plumb_bob", D["plumb_bob"], K, np.diag([1.0, 1.0, -1.0]), K_NEW, SIZE)
    assert make_lens("plumb_bob", D["plumb_bob"], K, np.zeros(9), K_NEW, SIZE) is not None  # not filled in


@pytest.mark.parametrize(
    ("name", "rectified"),
    [
        ("/camera/image_rect_color", True),
        ("/zed/zed_node/rgb/color/rect/image", True),
        ("left/image_rect/compressed", True),
        ("image_rect.png", True),
        ("/camera/color/image_raw", False),
        ("/direct/image", False),
        ("/cam/rectangle", False),
    ],
)
def test_the_name_tells_what_is_rectified(name: str, rectified: bool) -> None:
    assert is_rectified(name) is rectified


@pytest.mark.parametrize(("name", "corrected"), [("image_raw", True), ("image_rect_color", False)])
def test_frames_from_a_bag(tmp_path: Path, name: str, corrected: bool) -> None:
    pytest.importorskip("rosbags", reason='rosbags is not installed: pip install ".[bag]"')
    from bags import Recorder

    from molmo_ros.recording.bag import open_bag

    raw, recorder = raw_frame("rational_polynomial"), Recorder()
    entries = recorder.camera([(1_700_000_000_000_000_000, raw)])
    for number, entry in enumerate(entries):
        if entry.topic.endswith("camera_info"):
            entry.msg.distortion_model, entry.msg.d = (
                "rational_polynomial",
                np.array(D["rational_polynomial"]),
            )
        entries[number] = replace(entry, topic=entry.topic.replace("image_raw", name))
    with open_bag(recorder.write(tmp_path / "bag", entries)) as bag:
        ((_, frame),) = bag.frames(bag.find_topics(), 0.02)
    assert isinstance(frame, RgbdFrame)
    expected = rectify(raw, lens_of("rational_polynomial", K)) if corrected else raw
    assert np.array_equal(frame.rgb, expected.rgb)
    assert (frame.lens is not None) is corrected


@pytest.mark.parametrize(("name", "corrected"), [("image.png", True), ("image_rect.png", False)])
def test_frames_from_files(tmp_path: Path, name: str, corrected: bool) -> None:
    raw = raw_frame("plumb_bob")
    io.write_color(tmp_path / name, raw.rgb)
    io.write_depth(tmp_path / "depth.png", raw.depth)
    io.write_camera_info(tmp_path / "info.yaml", K, *SIZE, "eye")
    text = (tmp_path / "info.yaml").read_text().replace("[0.0, 0.0, 0.0, 0.0, 0.0]", str(D["plumb_bob"]))
    (tmp_path / "info.yaml").write_text(text)
    frame = io.read_frame(tmp_path / name, tmp_path / "depth.png", tmp_path / "info.yaml")
    expected = rectify(raw, lens_of("plumb_bob", K)) if corrected else raw
    assert np.array_equal(frame.rgb, expected.rgb)
    np.testing.assert_allclose(frame.depth, expected.depth, atol=1e-3)
    assert (frame.lens is not None) is corrected
    np.testing.assert_array_equal(frame.K, K)
