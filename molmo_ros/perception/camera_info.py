"""Camera intrinsics: read them from the usual YAML files and refuse those that cannot be true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from molmo_ros.datatypes import Array, Lens, RgbdFrame
from molmo_ros.errors import CameraInfoError, FrameError
from molmo_ros.perception.rectify import make_lens
from molmo_ros.untrusted import read_yaml

LEAST_SIDE = 8  # px of an image; a smaller one shows nothing


def check_K(K: Array, width: int, height: int) -> Array:  # noqa: N802 (K is the field's own name)
    """Return K as (3,3) float64 px.

    Raises: CameraInfoError if K is not finite, has no focal length (a camera that was never calibrated
    publishes zeros), or belongs to an image of another size.
    """
    try:
        K = np.asarray(K, dtype=np.float64).reshape(3, 3)
    except (TypeError, ValueError):
        raise CameraInfoError("K is no 3x3 matrix of numbers; give fx 0 cx 0 fy cy 0 0 1 in px.") from None
    if not np.all(np.isfinite(K)):
        raise CameraInfoError(f"K is not finite: {K.ravel().tolist()}; calibrate the camera.")
    fx, fy, cx, cy = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
    if fx <= 0 or fy <= 0:
        raise CameraInfoError(f"The focal length is {fx:g}, {fy:g} px, of no camera; calibrate the camera.")
    if not np.allclose(K[[1, 2, 2, 2], [0, 0, 1, 2]], (0, 0, 0, 1)) or abs(K[0, 1]) > 0.01 * fx:
        raise CameraInfoError(f"K is no pinhole camera: {K.ravel().tolist()}; give fx 0 cx 0 fy cy 0 0 1.")
    if not 0.5 < fx / fy < 2:
        raise CameraInfoError(f"fx = {fx:g} and fy = {fy:g} px are of no real lens; check the order of K.")
    off_centre = max(abs(cx / width - 0.5), abs(cy / height - 0.5))
    if off_centre > 0.48 or not 0.1 < fx / width < 20:
        raise CameraInfoError(
            f"K (f = {fx:.0f} px, centre {cx:.0f}, {cy:.0f}) does not fit an image of {width}x{height}; "
            "use the camera_info of this very image."
        )
    return K


def check_frame(frame: RgbdFrame) -> None:
    """Check that colour, depth and K of a frame fit each other.

    Raises: FrameError on shape or type, CameraInfoError on K.
    """
    if frame.rgb.ndim != 3 or frame.rgb.shape[2] != 3 or frame.rgb.dtype != np.uint8:
        raise FrameError(f"Colour is {frame.rgb.dtype} {frame.rgb.shape}; give (H, W, 3) uint8 RGB.")
    if frame.depth.ndim != 2 or not np.issubdtype(frame.depth.dtype, np.floating):
        raise FrameError(
            f"Depth is {frame.depth.dtype} {frame.depth.shape}; give (H, W) floats in metres (mm / 1000)."
        )
    height, width = frame.rgb.shape[:2]
    if min(height, width) < LEAST_SIDE:
        raise FrameError(
            f"The image is {width}x{height}, {LEAST_SIDE} px are needed; a cloud in one row is no image."
        )
    if frame.depth.shape != (height, width):
        raise FrameError(
            f"Depth is {frame.depth.shape[1]}x{frame.depth.shape[0]} and colour {width}x{height}; "
            "use the depth that the driver aligns to colour (RealSense: align_depth.enable:=true), or "
            "reproject it (molmo_ros.perception.register)."
        )
    check_K(frame.K, width, height)


def load_camera_info(path: str | Path, rectified: bool = False) -> tuple[Array, int, int, str, Lens | None]:
    """Read K (3,3) px of the rectified image, width, height, frame_id and the lens from a YAML file.

    Takes the format of camera_calibration (camera_matrix, image_width, ...) and that of
    ``ros2 topic echo --once .../camera_info``. K is the left 3x3 of the projection matrix where there is
    one. frame_id falls back on camera_name, then on the default of RgbdFrame. The lens is None if there is no
    distortion, or the images are rectified already. Raises: CameraInfoError.
    """
    path = Path(path)
    info = _read_mapping(path)
    width = _integer(info, path, "image_width", "width")
    height = _integer(info, path, "image_height", "height")
    K = _matrix(info, path, 9, "camera_matrix", "k", "K")
    P = _matrix(info, path, 12, "projection_matrix", "p", "P")
    R = _matrix(info, path, 9, "rectification_matrix", "r", "R")
    D = _matrix(info, path, None, "distortion_coefficients", "d", "D")
    if K is None and P is None:
        raise CameraInfoError(f"{path} has no camera_matrix, no projection_matrix; give a camera_info YAML.")
    K_raw = K if K is not None else np.zeros(9)
    K_new = check_K(P.reshape(3, 4)[:, :3] if P is not None and P[0] > 0 else K_raw, width, height)
    lens = None
    if D is not None and not rectified:
        model = str(info.get("distortion_model", ""))
        lens = make_lens(model, D, K_raw, R, K_new, (width, height))
    if lens is not None:
        check_K(K_raw, width, height)
    return K_new, width, height, _frame_id(info), lens


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        # topic echo ends each message with "---": take the first document
        first = read_yaml(path)
    except OSError as error:
        raise CameraInfoError(f"Cannot read {path}: {error.strerror}; give a camera_info YAML.") from error
    except ValueError as error:
        raise CameraInfoError(f"{path} is not YAML ({error}); give a camera_info YAML file.") from error
    if not isinstance(first, dict):
        raise CameraInfoError(f"{path} holds no mapping; give a camera_info YAML file.")
    return first


def _integer(info: dict[str, Any], path: Path, *names: str) -> int:
    value = next((info[name] for name in names if name in info), None)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise CameraInfoError(f"{path}: {names[0]} is {value!r}; give the size of the image in pixels.")
    return value


def _matrix(info: dict[str, Any], path: Path, size: int | None, *names: str) -> Array | None:
    value = next((info[name] for name in names if name in info), None)
    if isinstance(value, dict):
        value = value.get("data")
    if value is None:
        return None
    try:
        flat = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        raise CameraInfoError(f"{path}: {names[0]} holds what is no number; give plain numbers.") from None
    if size is not None and flat.size != size:
        raise CameraInfoError(f"{path}: {names[0]} has {flat.size} numbers; give {size}.")
    return flat


def _frame_id(info: dict[str, Any]) -> str:
    header = info.get("header")
    named = header.get("frame_id") if isinstance(header, dict) else info.get("camera_name")
    return str(named) if named else RgbdFrame.frame_id
