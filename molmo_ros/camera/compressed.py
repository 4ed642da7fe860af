"""sensor_msgs/CompressedImage of image_transport: colour as JPEG or PNG, depth as compressedDepth."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.camera.conversions import clean_depth
from molmo_ros.datatypes import Depth, Image
from molmo_ros.errors import FrameError

DEPTH_HEADER_BYTES = 12  # int32 format, float32 quantisation A and B; then the PNG


def decode_compressed_color(msg: Any) -> Image:
    """CompressedImage -> (H,W,3) uint8 RGB.

    Raises: FrameError if it is no picture that OpenCV reads.
    """
    import cv2

    pixels = cv2.imdecode(np.frombuffer(msg.data, np.uint8), cv2.IMREAD_COLOR) if len(msg.data) else None
    if pixels is None:
        raise FrameError(f"The compressed image ({msg.format!r}, {len(msg.data)} bytes) is not JPEG or PNG.")
    return np.ascontiguousarray(pixels[:, :, ::-1]).astype(np.uint8, copy=False)


def decode_compressed_depth(msg: Any) -> Depth:
    """CompressedImage of the transport compressedDepth -> (H,W) float32 metres, NaN where invalid.

    Source: compressed_depth_image_transport (16UC1: the PNG holds millimetres; 32FC1: it holds A / z + B).
    Raises: FrameError if the encoding is another or the PNG is broken.
    """
    encoding = str(msg.format).split(";")[0].strip()
    if "rvl" in str(msg.format).lower() or encoding not in ("16UC1", "32FC1"):
        raise FrameError(
            f"compressedDepth of format {msg.format!r} is not supported; set the publisher to PNG "
            "(parameter .compressedDepth.format: png) with 16UC1 or 32FC1, or use depth_transport: raw."
        )
    values = _png(bytes(msg.data[DEPTH_HEADER_BYTES:]), msg.format)
    if encoding == "16UC1":
        return clean_depth(values, 0.001)
    _, quant_a, quant_b = struct.unpack("<iff", bytes(msg.data[:DEPTH_HEADER_BYTES]))
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = quant_a / (values.astype(np.float32) - quant_b)
    metres[values == 0] = np.nan
    return clean_depth(metres, 1.0)


def _png(data: bytes, what: str) -> npt.NDArray[Any]:
    import cv2

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if values is None or values.ndim != 2 or values.dtype != np.uint16:
        raise FrameError(f"The compressed depth ({what!r}, {len(data)} bytes) holds no 16-bit PNG.")
    return np.asarray(values)
