from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.errors import CameraInfoError, FrameError
from molmo_ros.perception.camera_info import check_frame, check_K, load_camera_info

K = np.array([[600.0, 0, 319.5], [0, 605.0, 239.5], [0, 0, 1]])

CALIBRATION = """
image_width: 640
image_height: 480
camera_name: wrist
camera_matrix: {rows: 3, cols: 3, data: [600, 0, 319.5, 0, 605, 239.5, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}
"""
PROJECTION = "projection_matrix: {rows: 3, cols: 4, data: [590, 0, 320, 0, 0, 591, 240, 0, 0, 0, 1, 0]}\n"
ECHO = """
header: {stamp: {sec: 1, nanosec: 2}, frame_id: camera_optical}
height: 480
width: 640
d: [0.0, 0.0]
k: [600.0, 0.0, 319.5, 0.0, 605.0, 239.5, 0.0, 0.0, 1.0]
p: [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
---
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "info.yaml"
    path.write_text(text)
    return path


def test_reads_the_calibration_format(tmp_path: Path) -> None:
    got, width, height, frame_id, _ = load_camera_info(written(tmp_path, CALIBRATION))
    assert np.array_equal(got, K)
    assert (width, height, frame_id) == (640, 480, "wrist")


def test_the_rectified_image_has_the_projection_matrix(tmp_path: Path) -> None:
    got = load_camera_info(written(tmp_path, CALIBRATION + PROJECTION))[0]
    assert got == pytest.approx(np.array([[590, 0, 320], [0, 591, 240], [0, 0, 1]]))


def test_reads_what_topic_echo_prints(tmp_path: Path) -> None:
    got, _, _, frame_id, _ = load_camera_info(written(tmp_path, ECHO))
    assert np.array_equal(got, K)  # an all-zero p says nothing
    assert frame_id == "camera_optical"


def test_distortion_gives_a_lens_unless_rectified(tmp_path: Path) -> None:
    bent = CALIBRATION.replace("[0, 0, 0, 0, 0]", "[0.1, 0, 0, 0, 0]")
    path = written(tmp_path, bent + PROJECTION)
    lens = load_camera_info(path)[4]
    assert lens is not None
    assert (lens.model, lens.D, lens.K[0], lens.K_new[0]) == ("plumb_bob", (0.1, 0, 0, 0, 0), 600.0, 590.0)
    assert load_camera_info(path, rectified=True)[4] is None
    assert load_camera_info(written(tmp_path, CALIBRATION))[4] is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("image_width: 640\nimage_height: 480\n", "camera_matrix"),
        ("[1, 2]", "mapping"),
        ("a: [", "not YAML"),
        (CALIBRATION.replace("image_width: 640", "image_width: wide"), "image_width"),
        (CALIBRATION.replace("image_width: 640", "image_width: 0"), "image_width"),
        (CALIBRATION.replace("600, 0, 319.5,", "600, 0,"), "8 numbers"),
        (CALIBRATION.replace("600, 0, 319.5,", "600, x, 319.5,"), "no number"),
        (CALIBRATION.replace("600, 0, 319.5,", "0, 0, 319.5,"), "calibrate"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(CameraInfoError, match=word):
        load_camera_info(written(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CameraInfoError, match="Cannot read"):
        load_camera_info(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("row", "column", "value", "word"),
    [
        (0, 0, 0.0, "focal length"),
        (1, 1, -600.0, "focal length"),
        (0, 0, np.nan, "not finite"),
        (0, 0, 60000.0, "real lens"),
        (0, 2, 900.0, "does not fit"),
        (2, 2, 0.0, "pinhole"),
    ],
)
def test_impossible_intrinsics_are_refused(row: int, column: int, value: float, word: str) -> None:
    bad = K.copy()
    bad[row, column] = value
    with pytest.raises(CameraInfoError, match=word):
        check_K(bad, 640, 480)


def test_intrinsics_of_another_size_are_refused() -> None:
    assert np.array_equal(check_K(K, 640, 480), K)
    with pytest.raises(CameraInfoError, match="320x240"):
        check_K(K, 320, 240)
    with pytest.raises(CameraInfoError, match="3x3"):
        check_K(np.eye(2), 640, 480)


def test_a_frame_must_fit_itself() -> None:
    frame = RgbdFrame(np.zeros((480, 640, 3), np.uint8), np.ones((480, 640), np.float32), K)
    check_frame(frame)
    with pytest.raises(FrameError, match=r"320x240.*640x480"):
        check_frame(replace(frame, depth=np.ones((240, 320), np.float32)))
    with pytest.raises(FrameError, match="uint16"):
        check_frame(replace(frame, depth=np.ones((480, 640), np.uint16)))  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="RGB"):
        check_frame(replace(frame, rgb=np.zeros((480, 640), np.uint8)))
    with pytest.raises(FrameError, match="640x1"):
        check_frame(replace(frame, rgb=np.zeros((1, 640, 3), np.uint8), depth=np.ones((1, 640), np.float32)))
    with pytest.raises(CameraInfoError, match="focal"):
        check_frame(replace(frame, K=np.zeros((3, 3))))
