"""What goes to the browser in binary: JPEG images and coloured clouds, each behind a small JSON header.

A message is the length of the header (uint32, little endian), the header, and the payload.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from molmo_ros.datatypes import Array, Image, RgbdFrame

MAX_WIDTH = 1280  # px; a wider image is scaled down, the page shows it smaller anyway
JPEG_QUALITY = 80
MAX_POINTS = 40_000  # of a cloud; 9 bytes each
MAX_RANGE_M = 4.0  # what is farther is not what is grasped
UNIT_M = 0.0005  # one step of a coordinate: int16 reaches 16 m


def pack(header: dict[str, Any], payload: bytes) -> bytes:
    """One binary message."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)  # so that the payload of a cloud is aligned
    return len(text).to_bytes(4, "little") + text + payload


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and payload of a message, for clients in Python."""
    end = 4 + int.from_bytes(message[:4], "little")
    header: dict[str, Any] = json.loads(message[4:end])
    return header, message[end:]


def image_message(kind: str, rgb: Image, stamp_ns: int, frame_id: str = "") -> bytes:
    """A JPEG of rgb (H,W,3). Width and height in the header are those of rgb: points are in its pixels."""
    import cv2

    height, width = rgb.shape[:2]
    shown = rgb
    if width > MAX_WIDTH:
        shown = np.asarray(
            cv2.resize(rgb, (MAX_WIDTH, round(height * MAX_WIDTH / width)), interpolation=cv2.INTER_AREA)
        )
    jpeg = cv2.imencode(".jpg", shown[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    header = {"kind": kind, "width": width, "height": height, "stamp_ns": str(stamp_ns), "frame_id": frame_id}
    return pack(header, jpeg.tobytes())


def scene_message(frame: RgbdFrame, T: Array | None, frame_id: str) -> bytes:
    """The cloud of a frame in frame_id. T (4,4): the frame's optical frame in frame_id; None: the same."""
    points, colors = scene_points(frame)
    return cloud_message("scene", points, colors, T, frame_id, frame.stamp_ns, _step(frame) / frame.K[0, 0])


def scene_points(frame: RgbdFrame) -> tuple[Array, Image]:
    """Points (N,3) m in the optical frame and colours (N,3) of a regular raster of pixels that have depth."""
    height, width = frame.depth.shape
    step = _step(frame)
    z = frame.depth[::step, ::step].astype(np.float64)
    v, u = np.mgrid[0:height:step, 0:width:step]
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(z) & (z > 0) & (z < MAX_RANGE_M)
    z, u, v = z[seen], u[seen], v[seen]
    K = frame.K
    x, y = (u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z
    return np.stack([x, y, z], axis=1), frame.rgb[::step, ::step][seen]


def _step(frame: RgbdFrame) -> int:
    """Every how many pixels, so that there are at most MAX_POINTS."""
    height, width = frame.depth.shape
    return max(1, int(np.ceil(np.sqrt(height * width / MAX_POINTS))))


def cloud_message(
    kind: str,
    points: Array,
    colors: Image,
    T: Array | None,
    frame_id: str,
    stamp_ns: int,
    spread: float = 0.004,
) -> bytes:
    """Points (N,3) m as int16 in units of UNIT_M, then colors (N,3) uint8; T row-major in the header.

    spread: distance of neighbouring points, in m at a depth of 1 m.
    """
    steps = np.clip(np.round(points / UNIT_M), -32768, 32767).astype("<i2")
    header = {
        "kind": kind,
        "count": len(points),
        "unit_m": UNIT_M,
        "spread": spread,
        "frame_id": frame_id,
        "stamp_ns": str(stamp_ns),
        "T": np.eye(4).ravel().tolist() if T is None else np.asarray(T, dtype=float).ravel().tolist(),
    }
    return pack(header, steps.tobytes() + np.ascontiguousarray(colors, dtype=np.uint8).tobytes())
