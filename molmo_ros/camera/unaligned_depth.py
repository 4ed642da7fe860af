"""Depth that is not aligned to colour: recognised by size, frame and topic name; and its camera."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from molmo_ros.camera.conversions import decode_intrinsics, decode_lens
from molmo_ros.datatypes import Array, Depth, DepthCamera, Image
from molmo_ros.errors import FrameError

ALIGNED = "use depth that is aligned to colour (RealSense: align_depth.enable:=true)"


def is_aligned(topic: str) -> bool:
    """Whether a depth topic has the name of an aligned one: aligned_depth_to_color, depth_registered."""
    return bool({"aligned", "registered"} & set(re.split(r"[/_.-]", topic.lower())))


def is_apart(rgb: Image, header: Any, depth: Depth, depth_header: Any, depth_topic: str) -> bool:
    """Whether a depth image is of another camera than the colour image: by its size, or by its frame.

    Where the topic is named as aligned, a driver has left the sensor's frame in the header.
    """
    if depth.shape != rgb.shape[:2]:
        return True
    frames = {_frame(header), _frame(depth_header)} - {""}
    return len(frames) > 1 and not is_aligned(depth_topic)


def depth_camera(info: Any, depth: Depth, T_color_depth: Array | None, rectified: bool) -> DepthCamera:
    """The camera of a depth image (h,w), from camera_info and tf (None: the same frame).

    Raises: CameraInfoError, also if camera_info is of another size.
    """
    height, width = depth.shape
    K = decode_intrinsics(info, width, height, "depth_camera_info")
    lens = None if rectified else decode_lens(info, width, height)
    return DepthCamera(K, np.eye(4) if T_color_depth is None else T_color_depth, lens)


def refusal(rgb: Image, header: Any, depth: Depth, depth_header: Any, why: str) -> FrameError:
    """The error for depth of another camera that cannot be reprojected: why, and how to fix it."""
    return FrameError(
        f"Depth is {depth.shape[1]}x{depth.shape[0]} in {_frame(depth_header)!r}, but the image "
        f"{rgb.shape[1]}x{rgb.shape[0]} in {_frame(header)!r}, and cannot be reprojected: {why} Or {ALIGNED}."
    )


def _frame(header: Any) -> str:
    return str(header.frame_id).lstrip("/")
