"""Camera messages to and from arrays: sensor_msgs Image and CameraInfo, REP-118 depth.

Written out instead of taken from a bridge, because row padding (``step``) and ``is_bigendian`` must be
honoured.
"""

from __future__ import annotations

import array
import logging
import sys
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Array, Depth, DepthCamera, Image, Lens, RgbdFrame
from molmo_ros.errors import CameraInfoError, FrameError
from molmo_ros.perception.camera_info import check_K
from molmo_ros.perception.rectify import make_lens, rectify, rectify_color

log = logging.getLogger(__name__)

# encoding -> (channels, order of the channels that gives RGB)
COLOR_ENCODINGS: dict[str, tuple[int, tuple[int, ...]]] = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "mono8": (1, (0, 0, 0)),
    "8UC1": (1, (0, 0, 0)),
    "8UC3": (3, (2, 1, 0)),  # the order is unspecified; publishers usually mean OpenCV's
    "8UC4": (4, (2, 1, 0)),
}
# encoding -> (NumPy type without byte order, metres per unit)
DEPTH_ENCODINGS: dict[str, tuple[str, float]] = {
    "16UC1": ("u2", 0.001),
    "mono16": ("u2", 0.001),
    "32FC1": ("f4", 1.0),
}


def stamp_to_ns(stamp: Any) -> int:
    """builtin_interfaces/Time -> nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def decode_color(msg: Any) -> Image:
    """sensor_msgs/Image -> (H,W,3) uint8 RGB.

    Raises: FrameError for an unknown encoding, or data that does not fit height, width and step.
    """
    if msg.encoding not in COLOR_ENCODINGS:
        raise FrameError(
            f"The image has encoding {msg.encoding!r}; known are {', '.join(COLOR_ENCODINGS)}. "
            "Convert it on the way, for example with image_proc (debayer) or the camera's own parameter."
        )
    channels, order = COLOR_ENCODINGS[msg.encoding]
    pixels = _pixels(msg, np.dtype(np.uint8), channels, "image")
    return np.ascontiguousarray(pixels[:, :, order])


def decode_depth(msg: Any) -> Depth:
    """sensor_msgs/Image -> (H,W) float32 metres along z, NaN where invalid.

    Source: REP-118 (16UC1 millimetres with 0 invalid; 32FC1 metres with NaN and +-Inf invalid).
    Raises: FrameError for an unknown encoding, or data that does not fit height, width and step.
    """
    if msg.encoding not in DEPTH_ENCODINGS:
        raise FrameError(
            f"The depth image has encoding {msg.encoding!r}; known are 16UC1 (mm) and 32FC1 (m) of REP-118. "
            "Set the driver to one of them, or remap 'depth' to the raw aligned depth topic."
        )
    code, unit_m = DEPTH_ENCODINGS[msg.encoding]
    dtype = np.dtype((">" if msg.is_bigendian else "<") + code)
    return clean_depth(_pixels(msg, dtype, 1, "depth image")[:, :, 0], unit_m)


def clean_depth(values: npt.NDArray[Any], unit_m: float) -> Depth:
    """(H,W) sensor units -> float32 metres, NaN for what is zero, negative or not finite."""
    depth = values.astype(np.float32) * np.float32(unit_m)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    return depth


def _pixels(msg: Any, dtype: np.dtype[Any], channels: int, what: str) -> npt.NDArray[Any]:
    """The pixels (H,W,C) of a message, without the padding at the end of each row."""
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    row_bytes = width * channels * dtype.itemsize
    if height < 1 or width < 1:
        raise FrameError(f"The {what} is {width}x{height} pixels; the publisher sends empty images.")
    if step < row_bytes:
        raise FrameError(
            f"The {what} has step {step}, but {width} pixels of {msg.encoding} need {row_bytes} bytes a row; "
            "the publisher must set step and encoding to what it sends."
        )
    data = np.frombuffer(msg.data, dtype=np.uint8)
    if data.size < step * height:
        raise FrameError(
            f"The {what} has {data.size} bytes, but {height} rows of step {step} are {step * height}; "
            "the publisher truncates its messages."
        )
    rows = np.ascontiguousarray(data[: step * height].reshape(height, step)[:, :row_bytes])
    return rows.view(dtype).reshape(height, width, channels)


def decode_intrinsics(msg: Any, width: int, height: int, topic: str = "camera_info") -> Array:
    """sensor_msgs/CameraInfo -> K (3,3) px of the rectified image: the left 3x3 of P, else K.

    topic: the name to remap. Raises: CameraInfoError if the camera is not calibrated, or the calibration is
    of another image size.
    """
    P = np.asarray(msg.p, dtype=np.float64).reshape(3, 4)[:, :3]
    K = P if P[0, 0] != 0 else np.asarray(msg.k, dtype=np.float64).reshape(3, 3)
    if not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        raise CameraInfoError(
            f"camera_info holds no intrinsics (fx {K[0, 0]:g}, fy {K[1, 1]:g}); calibrate the camera, or "
            "give its driver the calibration file (camera_info_url)."
        )
    if (msg.width, msg.height) not in ((0, 0), (width, height)):
        raise CameraInfoError(
            f"camera_info is of a {msg.width}x{msg.height} image, but the image is {width}x{height}; "
            f"remap {topic!r} to the one published beside the image."
        )
    return check_K(K, width, height)


def decode_lens(msg: Any, width: int, height: int) -> Lens | None:
    """sensor_msgs/CameraInfo of a raw image -> its lens, None without distortion. Raises: CameraInfoError."""
    K_new = decode_intrinsics(msg, width, height)
    lens = make_lens(
        str(msg.distortion_model), msg.d, np.asarray(msg.k), np.asarray(msg.r), K_new, (width, height)
    )
    if lens is not None:
        check_K(np.asarray(msg.k), width, height)
        _tell_of_distortion(lens)
    return lens


@lru_cache(maxsize=64)  # once per calibration
def _tell_of_distortion(lens: Lens) -> None:
    log.info(
        "camera_info of the %dx%d image has lens distortion (%s): image and depth are rectified here. If "
        "they are rectified already, their topic's name must say so, as image_rect does.",
        lens.width,
        lens.height,
        lens.model,
    )


def make_frame(
    rgb: Image,
    depth: Depth,
    info: Any,
    header: Any,
    rectified: bool = False,
    depth_rectified: bool = False,
    camera: DepthCamera | None = None,
) -> RgbdFrame:
    """Decoded images, the CameraInfo message and the header of the image -> rectified RgbdFrame.

    rectified: the images already are; the distortion in camera_info is that of the raw image.
    depth_rectified: the depth at least is aligned to the rectified image. camera: that of the depth, which is
    not aligned to colour.
    Raises: FrameError if the sizes differ, or the image names no frame; CameraInfoError, TransformError.
    """
    height, width = rgb.shape[:2]
    if camera is None and depth.shape != (height, width):
        raise FrameError(
            f"Depth is {depth.shape[1]}x{depth.shape[0]}, but the image is {width}x{height}; remap 'depth' "
            "to the depth aligned to colour (RealSense: align_depth.enable:=true)."
        )
    if not header.frame_id:
        raise FrameError("The image names no frame_id; set the optical frame in the camera driver.")
    K = decode_intrinsics(info, width, height)
    frame = RgbdFrame(rgb, depth, K, str(header.frame_id), stamp_to_ns(header.stamp))
    lens = None if rectified else decode_lens(info, width, height)
    if camera is not None:
        from molmo_ros.perception.register import registered

        return registered(frame, lens, camera)
    if depth_rectified:
        return replace(frame, rgb=rectify_color(rgb, lens), lens=lens)
    return rectify(frame, lens)


def image_message(pixels: npt.NDArray[Any], encoding: str, header: Any) -> Any:
    """(H,W) or (H,W,C) in the type of the encoding -> sensor_msgs/Image in native byte order."""
    from sensor_msgs.msg import Image as ImageMessage

    pixels = np.ascontiguousarray(pixels)
    msg = ImageMessage(header=header, encoding=encoding, height=pixels.shape[0], width=pixels.shape[1])
    msg.step = pixels.strides[0]
    msg.is_bigendian = int(sys.byteorder == "big")
    msg.data = array.array("B", pixels.tobytes())  # bytes would be checked element by element
    return msg


def depth_message(depth: Depth, header: Any) -> Any:
    """(H,W) metres with NaN -> 16UC1 millimetres, 0 invalid; beyond 65.535 m is invalid too."""
    return image_message(depth_millimetres(depth), "16UC1", header)


def depth_millimetres(depth: Depth) -> npt.NDArray[np.uint16]:
    """(H,W) m with NaN -> mm as REP-118 has them; 0 where invalid or beyond 65.535 m."""
    millimetres = np.nan_to_num(np.rint(depth.astype(np.float64) * 1000.0), nan=0.0, posinf=0.0, neginf=0.0)
    millimetres[(millimetres < 0) | (millimetres > 65535)] = 0
    return millimetres.astype(np.uint16)


def camera_info_message(K: Array, width: int, height: int, header: Any) -> Any:
    """K (3,3) px of a rectified image -> sensor_msgs/CameraInfo without distortion."""
    from sensor_msgs.msg import CameraInfo

    msg = CameraInfo(header=header, width=width, height=height, distortion_model="plumb_bob")
    msg.d = [0.0] * 5
    msg.k = [float(value) for value in K.reshape(-1)]
    msg.r = [float(value) for value in np.eye(3).reshape(-1)]
    msg.p = [float(value) for value in np.hstack([K, np.zeros((3, 1))]).reshape(-1)]
    return msg
