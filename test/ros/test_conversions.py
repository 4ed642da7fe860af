"""Camera messages by numbers that can be checked by hand."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from molmo_ros.camera.compressed import decode_compressed_color, decode_compressed_depth
from molmo_ros.camera.conversions import (
    camera_info_message,
    decode_color,
    decode_depth,
    decode_intrinsics,
    depth_message,
    image_message,
    make_frame,
)
from molmo_ros.errors import CameraInfoError, FrameError

RED_GREEN = {  # two pixels, red then green
    "rgb8": [255, 0, 0, 0, 255, 0],
    "bgr8": [0, 0, 255, 0, 255, 0],
    "rgba8": [255, 0, 0, 9, 0, 255, 0, 9],
    "bgra8": [0, 0, 255, 9, 0, 255, 0, 9],
    "8UC3": [0, 0, 255, 0, 255, 0],
    "8UC4": [0, 0, 255, 9, 0, 255, 0, 9],
}


def message(encoding: str, rows: list[list[int]], width: int, padding: int = 0, big: bool = False) -> Image:
    data = [byte for row in rows for byte in [*row, *[171] * padding]]
    msg = Image(encoding=encoding, height=len(rows), width=width, step=len(rows[0]) + padding)
    msg.is_bigendian = int(big)
    msg.data = array.array("B", data)
    return msg


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", RED_GREEN)
def test_color(encoding: str, padding: int) -> None:
    rgb = decode_color(message(encoding, [RED_GREEN[encoding]] * 2, 2, padding))
    assert rgb.tolist() == [[[255, 0, 0], [0, 255, 0]]] * 2


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey(encoding: str) -> None:
    assert decode_color(message(encoding, [[7, 8]], 2, padding=3)).tolist() == [[[7] * 3, [8] * 3]]


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("big", [False, True])
def test_millimetres(big: bool, padding: int) -> None:
    """1000 mm = 0x03E8, and 0 is invalid (REP-118)."""
    row = [0x03, 0xE8, 0, 0] if big else [0xE8, 0x03, 0, 0]
    depth = decode_depth(message("16UC1", [row, row], 2, padding, big))
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, np.float32([[1.0, np.nan]] * 2))


@pytest.mark.parametrize("big", [False, True])
def test_metres(big: bool) -> None:
    """NaN, both infinities, zero and negative numbers are invalid."""
    values = np.array([[0.5, np.nan, np.inf, -np.inf, 0.0, -1.0]], ">f4" if big else "<f4")
    depth = decode_depth(message("32FC1", [list(values.tobytes())], 6, padding=2, big=big))
    np.testing.assert_array_equal(depth[0], np.float32([0.5] + [np.nan] * 5))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "bayer_rggb8"}, ["bayer_rggb8", "rgb8"]),
        ({"step": 5}, ["step 5", "6 bytes"]),
        ({"height": 3}, ["12 bytes", "18"]),
        ({"width": 0}, ["0x2"]),
    ],
)
def test_broken_color(change: dict[str, Any], words: list[str]) -> None:
    msg = message("rgb8", [RED_GREEN["rgb8"]] * 2, 2)
    for name, value in change.items():
        setattr(msg, name, value)
    with pytest.raises(FrameError) as caught:
        decode_color(msg)
    for word in words:
        assert word in str(caught.value)


def test_unknown_depth_encoding() -> None:
    with pytest.raises(FrameError, match=r"'32SC1'.*REP-118"):
        decode_depth(message("32SC1", [[0, 0, 0, 0]], 1))


def test_depth_round_trip() -> None:
    depth = np.float32([[0.001, 65.535, np.nan, 70.0, 0.5004]])
    back = decode_depth(depth_message(depth, Header()))
    np.testing.assert_allclose(back, [[0.001, 65.535, np.nan, np.nan, 0.5]], atol=1e-6)


def info(K: list[float], P: list[float], width: int = 640, height: int = 480) -> CameraInfo:
    return CameraInfo(k=K, p=P, width=width, height=height)


K9 = [600.0, 0.0, 320.0, 0.0, 601.0, 240.0, 0.0, 0.0, 1.0]
P12 = [500.0, 0.0, 310.0, 0.0, 0.0, 501.0, 230.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def test_intrinsics_of_the_rectified_image_win() -> None:
    assert decode_intrinsics(info(K9, P12), 640, 480)[0].tolist() == [500.0, 0.0, 310.0]
    assert decode_intrinsics(info(K9, [0.0] * 12), 640, 480)[1].tolist() == [0.0, 601.0, 240.0]


@pytest.mark.parametrize(
    ("msg", "word"),
    [
        (info([0.0] * 9, [0.0] * 12), "no intrinsics"),
        (info([float("nan")] * 9, [0.0] * 12), "no intrinsics"),
        (info(K9, P12, 1280, 720), "1280x720"),
        (info([-1.0, *K9[1:]], [0.0] * 12), "no intrinsics"),
    ],
)
def test_broken_intrinsics(msg: CameraInfo, word: str) -> None:
    with pytest.raises(CameraInfoError, match=word):
        decode_intrinsics(msg, 640, 480)


def test_a_raw_image_is_rectified_and_that_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    msg = info(K9, P12)
    msg.d, msg.distortion_model = [0.1, -0.2, 0.0, 0.0, 0.0], "plumb_bob"
    rgb, depth = np.zeros((480, 640, 3), np.uint8), np.ones((480, 640), np.float32)
    with caplog.at_level("INFO", "molmo_ros.camera.conversions"):
        frames = [make_frame(rgb, depth, msg, Header(frame_id="eye")) for _ in range(2)]
    assert [record.message.count("rectified here") for record in caplog.records] == [1]
    assert frames[0].lens is not None and frames[0].K[0, 0] == 500.0
    assert make_frame(rgb, depth, msg, Header(frame_id="eye"), rectified=True).rgb is rgb


def test_camera_info_round_trip() -> None:
    K = np.array(K9).reshape(3, 3)
    np.testing.assert_array_equal(decode_intrinsics(camera_info_message(K, 640, 480, Header()), 640, 480), K)


def test_frame_takes_stamp_and_frame_id_of_the_image() -> None:
    header = Header(frame_id="eye")
    header.stamp.sec, header.stamp.nanosec = 3, 5
    frame = make_frame(
        np.zeros((480, 640, 3), np.uint8), np.ones((480, 640), np.float32), info(K9, P12), header
    )
    assert (frame.stamp_ns, frame.frame_id) == (3_000_000_005, "eye")


def test_sizes_must_agree() -> None:
    with pytest.raises(FrameError, match=r"320x240.*640x480.*align_depth"):
        make_frame(
            np.zeros((480, 640, 3), np.uint8),
            np.ones((240, 320), np.float32),
            info(K9, P12),
            Header(frame_id="eye"),
        )


def compressed(kind: str, pixels: np.ndarray, form: str, head: bytes = b"") -> CompressedImage:
    import cv2

    data = head + cv2.imencode(kind, pixels)[1].tobytes()
    return CompressedImage(format=form, data=array.array("B", data))


def test_compressed_color_is_rgb() -> None:
    bgr = np.zeros((4, 6, 3), np.uint8)
    bgr[:, :, 2] = 200
    assert decode_compressed_color(compressed(".png", bgr, "rgb8; png compressed bgr8"))[0, 0].tolist() == [
        200,
        0,
        0,
    ]


def test_compressed_millimetres() -> None:
    pixels = np.array([[1000, 0]], np.uint16)
    depth = decode_compressed_depth(compressed(".png", pixels, "16UC1; compressedDepth png", bytes(12)))
    np.testing.assert_array_equal(depth, np.float32([[1.0, np.nan]]))


def test_compressed_metres_are_inverse_depth() -> None:
    """The PNG holds A / z + B: with A = 100, B = 2 a depth of 2 m is 52."""
    import struct

    head = struct.pack("<iff", 0, 100.0, 2.0)
    msg = compressed(".png", np.array([[52, 0]], np.uint16), "32FC1; compressedDepth png", head)
    np.testing.assert_array_equal(decode_compressed_depth(msg), np.float32([[2.0, np.nan]]))


@pytest.mark.parametrize("form", ["16UC1; compressedDepth rvl", "8UC1; compressedDepth png", ""])
def test_other_compressed_depth_is_refused(form: str) -> None:
    with pytest.raises(FrameError, match="not supported"):
        decode_compressed_depth(compressed(".png", np.ones((2, 2), np.uint16), form, bytes(12)))


@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_broken_compressed_data(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_compressed_color(CompressedImage(format="jpeg", data=array.array("B", data)))
    with pytest.raises(FrameError):
        decode_compressed_depth(CompressedImage(format="16UC1", data=array.array("B", bytes(12) + data)))


def test_image_message_is_quick_to_fill() -> None:
    """Image.data as bytes would be checked element by element: seconds, not milliseconds."""
    import time

    pixels = np.zeros((480, 640, 3), np.uint8)
    started = time.thread_time()
    image_message(pixels, "rgb8", Header())
    assert time.thread_time() - started < 0.1
