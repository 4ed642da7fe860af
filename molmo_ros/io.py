"""Frames on disk: a colour image, a 16-bit PNG of depth in millimetres, a ROS camera_info YAML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image as PilImage
from PIL import ImageOps, UnidentifiedImageError

from molmo_ros.datatypes import Array, Depth, DepthCamera, Image, RgbdFrame
from molmo_ros.errors import CameraInfoError, FrameError
from molmo_ros.perception.camera_info import check_frame, load_camera_info
from molmo_ros.perception.rectify import is_rectified, rectify, rectify_color

MM_PER_M = 1000.0
MAX_PIXELS = 50_000_000  # a larger image is not a camera frame: a small file may unpack to gigabytes
MAX_MM = np.iinfo(np.uint16).max


def read_color(path: str | Path) -> Image:
    """Read an image file as (H,W,3) uint8 RGB, rotated upright if EXIF says how.

    Raises: FrameError if it cannot be read or is not an image.
    """
    image = ImageOps.exif_transpose(_open(path))
    if image.mode.startswith(("I", "F")):
        raise FrameError(
            f"{path} has one channel of mode {image.mode}; this looks like depth: give the colour image."
        )
    return np.array(image.convert("RGB"), dtype=np.uint8)


def read_depth(path: str | Path) -> Depth:
    """Read a 16-bit PNG in millimetres as (H,W) float32 metres, NaN where it holds 0 (REP-118, 16UC1).

    Raises: FrameError if it is not such an image.
    """
    image = _open(path)
    if not image.mode.startswith("I"):
        raise FrameError(
            f"{path} has mode {image.mode}, not 16-bit grey; write depth as a 16-bit PNG in millimetres "
            "(cv2.imwrite of a uint16 array)."
        )
    millimetres = np.asarray(image, dtype=np.float32)
    return np.where(millimetres > 0, millimetres / MM_PER_M, np.nan).astype(np.float32)


def read_frame(
    color: str | Path,
    depth: str | Path,
    camera_info: str | Path,
    depth_camera_info: str | Path | None = None,
    T_color_depth: Array | None = None,
) -> RgbdFrame:
    """Read a whole frame, check that its parts fit each other, and rectify it.

    An image counts as rectified already if the name of its file says so (image_rect.png). Depth that is not
    aligned to colour is reprojected by its own depth_camera_info and T_color_depth (4,4), the optical frame
    of its camera in that of the colour camera; None: they are the same.

    Raises: FrameError, CameraInfoError, TransformError.
    """
    rgb, metres = read_color(color), read_depth(depth)
    rectified = is_rectified(Path(color).name)
    K, width, height, frame_id, lens = load_camera_info(camera_info, rectified)
    _check_size(camera_info, (width, height), color, rgb)
    frame = RgbdFrame(rgb, metres, K, frame_id)
    if depth_camera_info is not None:
        camera, depth_frame = _depth_camera(depth, metres, depth_camera_info, T_color_depth)
        if T_color_depth is None and depth_frame != frame_id:
            raise FrameError(
                f"Depth is of {depth_frame!r} and the image of {frame_id!r}; give the depth camera's pose "
                "(--depth-pose), or the same frame_id in both camera_info if they are one camera."
            )
        from molmo_ros.perception.register import registered

        return registered(frame, lens, camera)
    if metres.shape != rgb.shape[:2]:
        raise FrameError(
            f"Depth is {metres.shape[1]}x{metres.shape[0]} and colour {width}x{height}; give depth aligned "
            "to colour, or the depth camera's own camera_info and pose (--depth-camera-info, --depth-pose)."
        )
    check_frame(frame)
    if is_rectified(Path(depth).name):
        return replace(frame, rgb=rectify_color(rgb, lens), lens=lens)
    return rectify(frame, lens)


def _depth_camera(
    path: str | Path, depth: Depth, camera_info: str | Path, T: Array | None
) -> tuple[DepthCamera, str]:
    """The camera of a depth image that is not aligned to colour, and its frame."""
    K, width, height, frame_id, lens = load_camera_info(camera_info, is_rectified(Path(path).name))
    _check_size(camera_info, (width, height), path, depth)
    return DepthCamera(K, np.eye(4) if T is None else T, lens), frame_id


def _check_size(
    camera_info: str | Path, size: tuple[int, int], image: str | Path, pixels: npt.NDArray[Any]
) -> None:
    height, width = pixels.shape[:2]
    if size != (width, height):
        raise CameraInfoError(
            f"{camera_info} is for {size[0]}x{size[1]} and {image} is {width}x{height}; "
            "give the camera_info of this image's size."
        )


def write_color(path: str | Path, rgb: Image) -> None:
    """Write (H,W,3) uint8 in the format of the path's ending. Raises: FrameError if that fails."""
    _save(PilImage.fromarray(np.ascontiguousarray(rgb)), path)


def write_depth(path: str | Path, depth: Depth) -> None:
    """Write (H,W) metres as a 16-bit PNG in millimetres; what is not finite, or beyond 65.5 m, becomes 0."""
    with np.errstate(invalid="ignore"):
        millimetres = np.round(np.where(np.isfinite(depth), depth, 0.0) * MM_PER_M)
    write_ids(path, np.where((millimetres > 0) & (millimetres <= MAX_MM), millimetres, 0).astype(np.uint16))


def write_ids(path: str | Path, ids: npt.NDArray[np.integer]) -> None:
    """Write (H,W) integers 0..65535 as a 16-bit PNG."""
    _save(PilImage.fromarray(ids.astype(np.uint16)), path)


def write_camera_info(path: str | Path, K: Array, width: int, height: int, frame_id: str) -> None:
    """Write K (3,3) px as a camera_info YAML of camera_calibration; rectified, so without distortion."""
    P = np.hstack([K, np.zeros((3, 1))])
    info = {
        "image_width": width,
        "image_height": height,
        "camera_name": frame_id,
        "camera_matrix": _matrix(K),
        "distortion_model": "plumb_bob",
        "distortion_coefficients": _matrix(np.zeros((1, 5))),
        "rectification_matrix": _matrix(np.eye(3)),
        "projection_matrix": _matrix(P),
    }
    try:
        Path(path).write_text(
            yaml.safe_dump(info, sort_keys=False, default_flow_style=None), encoding="utf-8"
        )
    except OSError as error:
        raise FrameError(
            f"Cannot write {path}: {error.strerror}; choose a folder you may write to."
        ) from error


def save_picture(image: PilImage.Image, path: str | Path) -> None:
    """Write a Pillow picture in the format of the path's ending. Raises: FrameError if that fails."""
    _save(image, path)


def _matrix(values: Array) -> dict[str, object]:
    return {"rows": values.shape[0], "cols": values.shape[1], "data": [float(v) for v in values.ravel()]}


def _open(path: str | Path) -> PilImage.Image:
    try:
        image = PilImage.open(path)
        if image.width * image.height > MAX_PIXELS:
            raise FrameError(
                f"{path} is {image.width}x{image.height} pixels, more than {MAX_PIXELS / 1e6:.0f} million; "
                "give a smaller image."
            )
        image.load()
    except UnidentifiedImageError:
        raise FrameError(f"{path} is no image that can be read; give a PNG or JPEG file.") from None
    except (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FrameError(f"Cannot read {path}: {reason}; give a readable PNG or JPEG file.") from error
    return image


def _save(image: PilImage.Image, path: str | Path) -> None:
    try:
        image.save(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FrameError(
            f"Cannot write {path}: {reason}; give a path ending in .png in a folder you may write to."
        ) from error
