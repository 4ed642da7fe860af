"""Frames on disk come back as they were, and what is no frame is refused with the fix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage
from toy_scene import make_frame

from molmo_ros import io
from molmo_ros.errors import CameraInfoError, FrameError

K = np.array([[300.0, 0, 79.5], [0, 301.0, 59.5], [0, 0, 1]])


def _write_frame(folder: Path) -> tuple[Path, Path, Path]:
    frame, _ = make_frame(160, 120)
    paths = folder / "color.png", folder / "depth.png", folder / "camera_info.yaml"
    io.write_color(paths[0], frame.rgb)
    io.write_depth(paths[1], frame.depth)
    io.write_camera_info(paths[2], frame.K, 160, 120, "wrist_optical")
    return paths


def test_a_frame_survives_the_disk(tmp_path: Path) -> None:
    frame, _ = make_frame(160, 120)
    back = io.read_frame(*_write_frame(tmp_path))
    np.testing.assert_array_equal(back.rgb, frame.rgb)
    np.testing.assert_allclose(back.K, frame.K)
    assert back.frame_id == "wrist_optical"
    assert np.nanmax(np.abs(back.depth - frame.depth)) <= 0.0005001  # half a millimetre of rounding


def test_depth_that_is_missing_or_out_of_range_becomes_nan(tmp_path: Path) -> None:
    depth = np.array([[0.5, np.nan, 0.0], [-1.0, np.inf, 70.0]], dtype=np.float32)
    io.write_depth(tmp_path / "d.png", depth)
    back = io.read_depth(tmp_path / "d.png")
    assert back[0, 0] == np.float32(0.5)
    assert np.isnan(back.ravel()[1:]).all()


def test_depth_is_16_bit_millimetres_for_other_programs(tmp_path: Path) -> None:
    io.write_depth(tmp_path / "d.png", np.full((2, 3), 1.234, dtype=np.float32))
    header = (tmp_path / "d.png").read_bytes()
    assert header[24] == 16 and header[25] == 0  # IHDR: bit depth 16, colour type grey
    assert np.asarray(PilImage.open(tmp_path / "d.png"))[0, 0] == 1234


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_8_bit_depth_is_refused(tmp_path: Path, mode: str) -> None:
    PilImage.new(mode, (4, 4), 9).save(tmp_path / "d.png")
    with pytest.raises(FrameError, match=r"16-bit PNG in millimetres"):
        io.read_depth(tmp_path / "d.png")


def test_depth_given_as_colour_is_refused(tmp_path: Path) -> None:
    io.write_depth(tmp_path / "d.png", np.ones((4, 4), dtype=np.float32))
    with pytest.raises(FrameError, match="looks like depth"):
        io.read_color(tmp_path / "d.png")


@pytest.mark.parametrize("make", ["absent", "text", "cut", "folder"])
def test_what_is_no_image_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / "image.png"
    if make == "text":
        path.write_text("not an image")
    elif make == "cut":
        io.write_color(path, make_frame(160, 120)[0].rgb)
        path.write_bytes(path.read_bytes()[:300])
    elif make == "folder":
        path.mkdir()
    with pytest.raises(FrameError, match="PNG or JPEG"):
        io.read_color(path)


def test_grey_palette_and_alpha_images_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "1"):
        PilImage.new(mode, (5, 4)).save(tmp_path / "i.png")
        assert io.read_color(tmp_path / "i.png").shape == (4, 5, 3)


def test_camera_info_of_another_size_is_refused(tmp_path: Path) -> None:
    color, depth, info = _write_frame(tmp_path)
    io.write_camera_info(info, K * np.array([[2], [2], [1]]), 320, 240, "wrist_optical")
    with pytest.raises(CameraInfoError, match="320x240"):
        io.read_frame(color, depth, info)


def test_depth_of_another_size_is_refused(tmp_path: Path) -> None:
    color, depth, info = _write_frame(tmp_path)
    io.write_depth(depth, np.ones((60, 80), dtype=np.float32))
    with pytest.raises(FrameError, match="80x60"):
        io.read_frame(color, depth, info)


def test_a_picture_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    rgb = np.zeros((2, 2, 3), dtype=np.uint8)
    for path in (tmp_path / "no" / "such" / "folder.png", tmp_path / "picture.nonsense"):
        with pytest.raises(FrameError, match="Cannot write"):
            io.write_color(path, rgb)
