"""sensor_msgs/CompressedImage of image_transport: colour as JPEG or PNG, depth as compressedDepth."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.camera.conversions import clean_depth
from molmo_ros.datatypes import Depth, Image
from molmo_ros.errors import FrameError
from molmo_ros.io import MAX_PIXELS

Size = tuple[int, int]
# Deflate packs at most 1032 bytes into one (RFC 1951), JPEG a block of 64 pixels into at least one bit.
MOST_PIXELS_PER_BYTE = 1100
DEPTH_HEADER_BYTES = 12  # int32 format, float32 quantisation A and B; then the PNG


def decode_compressed_color(msg: Any, size: Size | None = None) -> Image:
    """CompressedImage -> (H,W,3) uint8 RGB. ``size``: width, height according to camera_info.

    Raises: FrameError if it is not JPEG or PNG, or of another size, which is checked before it is unpacked.
    """
    import cv2

    what = f"The compressed image ({msg.format[:64]!r}, {len(msg.data)} bytes)"
    _check_header(bytes(msg.data), ("PNG", "JPEG"), what, size)
    pixels = _unpack(msg.data, cv2.IMREAD_COLOR)
    if pixels is None or pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise FrameError(f"{what} is damaged; check the camera's transport.")
    return np.ascontiguousarray(pixels[:, :, ::-1])


def decode_compressed_depth(msg: Any, size: Size | None = None) -> Depth:
    """CompressedImage of the transport compressedDepth -> (H,W) float32 metres, NaN where invalid.

    ``size``: as in ``decode_compressed_color``.
    Source: compressed_depth_image_transport (16UC1: the PNG holds millimetres; 32FC1: it holds A / z + B).
    Raises: FrameError if the encoding is a different one, or the PNG is broken or of another size.
    """
    encoding = str(msg.format).split(";")[0].strip()
    if "rvl" in str(msg.format).lower() or encoding not in ("16UC1", "32FC1"):
        raise FrameError(
            f"compressedDepth of format {msg.format[:64]!r} is not supported; set the publisher to PNG "
            "(parameter .compressedDepth.format: png) with 16UC1 or 32FC1, or use depth_transport: raw."
        )
    values = _png(bytes(msg.data[DEPTH_HEADER_BYTES:]), msg.format[:64], size)
    if encoding == "16UC1":
        return clean_depth(values, 0.001)
    _, quant_a, quant_b = struct.unpack("<iff", bytes(msg.data[:DEPTH_HEADER_BYTES]))
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = quant_a / (values.astype(np.float32) - quant_b)
    metres[values == 0] = np.nan
    return clean_depth(metres, 1.0)


def _png(data: bytes, format_: str, size: Size | None) -> npt.NDArray[Any]:
    import cv2

    what = f"The compressed depth ({format_!r}, {len(data)} bytes)"
    _check_header(data, ("PNG",), what, size)
    values = _unpack(data, cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 2 or values.dtype != np.uint16:
        raise FrameError(f"{what} holds no 16-bit PNG.")
    return values


def _check_header(data: bytes, kinds: tuple[str, ...], what: str, size: Size | None) -> None:
    """A small file may unpack to gigabytes, so its size is read from its header first. Raises: FrameError."""
    from PIL import Image as PilImage

    try:
        with PilImage.open(io.BytesIO(data), formats=kinds) as picture:
            kind, (width, height) = picture.format, picture.size
    except PilImage.DecompressionBombError as error:
        raise FrameError(f"{what} would unpack to gigabytes ({error}); look at who publishes it.") from error
    except Exception as error:  # Pillow raises a dozen kinds; none of them is one of ours
        raise FrameError(f"{what} is not {' or '.join(kinds)}; check the camera's transport.") from error
    if size is not None and (width, height) != size:
        raise FrameError(
            f"{what} is of {width}x{height} pixels, camera_info of {size[0]}x{size[1]}; remap camera_info to "
            "the one published beside the image."
        )
    if width * height > MAX_PIXELS:
        raise FrameError(
            f"{what} would unpack to {width}x{height} pixels, more than {MAX_PIXELS / 1e6:.0f} million; "
            "set the camera to a lower resolution."
        )
    if width * height > MOST_PIXELS_PER_BYTE * len(data):
        raise FrameError(f"{what} has too few bytes for {width}x{height} pixels; it is cut off or damaged.")
    if kind == "PNG" and not _whole_chunks(data):
        raise FrameError(f"{what} is cut off or damaged; check the camera's transport.")


def _whole_chunks(data: bytes) -> bool:
    """Whether each chunk of a PNG ends within it; OpenCV allocates whatever length a chunk claims.

    Source: PNG specification, 5.3: 8 bytes of signature, then chunks of length, type, data and checksum.
    """
    at, kind = 8, b""
    while kind != b"IEND":
        if at + 12 > len(data):
            return False
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
    return at <= len(data)


def _unpack(data: Any, flags: int) -> npt.NDArray[Any] | None:
    import cv2

    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if pixels is None else np.asarray(pixels)
