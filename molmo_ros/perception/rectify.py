"""Lens distortion: frames of a raw image are rectified to pinhole frames, and points in them mapped back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Array, Depth, GraspTarget, Grounding, Image, ImagePoint, Lens, RgbdFrame
from molmo_ros.errors import CameraInfoError

FISHEYE = "equidistant"
# How many coefficients each model of sensor_msgs/distortion_models has; OpenCV takes the shorter and the
# longer forms (rational with thin prism and tilt) alike.
MODELS: dict[str, tuple[int, ...]] = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), FISHEYE: (4,)}
NO_DISTORTION = 1e-6  # coefficients up to this are zeros written to and read from a file


def is_rectified(name: str) -> bool:
    """Whether a topic or file has the name of a rectified image: image_rect (image_proc), rect/image
    (ZED)."""
    return bool({"rect", "rectified"} & set(re.split(r"[/_.-]", name.lower())))


def make_lens(
    model: str, D: Sequence[float] | Array, K: Array, R: Array | None, K_new: Array, size: tuple[int, int]
) -> Lens | None:
    """The lens of a raw image, None if it does not distort: it counts as rectified then, as in image_proc.

    D, K and R (None or all zeros: identity) as in sensor_msgs/CameraInfo; K_new (3,3) px the camera to
    rectify to; size is width, height.
    Raises: CameraInfoError if the model, the number of coefficients or R is unusable.
    """
    coefficients = np.asarray(D, dtype=np.float64).ravel()
    if np.all(np.abs(coefficients) <= NO_DISTORTION):
        return None
    if model not in MODELS:
        raise CameraInfoError(
            f"camera_info has the distortion model {model!r}; known are {', '.join(MODELS)}: calibrate the "
            "camera with one of them, or use rectified images (image_proc)."
        )
    if coefficients.size not in MODELS[model] or not np.isfinite(coefficients).all():
        wanted = " or ".join(map(str, MODELS[model]))
        raise CameraInfoError(
            f"camera_info has {coefficients.size} distortion coefficients {coefficients.tolist()}; {model} "
            f"has {wanted} finite ones: correct the calibration."
        )
    turn = np.eye(3) if R is None or not np.any(R) else np.asarray(R, dtype=np.float64).reshape(3, 3)
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
        raise CameraInfoError(
            f"R of camera_info is no rotation: {turn.ravel().tolist()}; correct the calibration, or use "
            "rectified images (image_proc)."
        )
    return Lens(model, _numbers(coefficients), _numbers(K), _numbers(turn), _numbers(K_new), *size)


def rectify(frame: RgbdFrame, lens: Lens | None) -> RgbdFrame:
    """A raw frame (depth registered to it) -> what a pinhole camera of the same size sees.

    Without a lens the frame itself. Its optical frame is that of the rectified camera, even where R rotates
    the camera of a stereo pair, as in stereo_image_proc and image_geometry.
    """
    if lens is None:
        return frame
    rgb, depth = rectify_color(frame.rgb, lens), rectify_depth(frame.depth, lens)
    return replace(frame, rgb=rgb, depth=depth, K=np.reshape(lens.K_new, (3, 3)), lens=lens)


def rectify_color(rgb: Image, lens: Lens | None) -> Image:
    """A raw image (H,W,3) -> rectified; black where the raw image shows nothing."""
    if lens is None:
        return rgb
    import cv2

    return np.asarray(cv2.remap(rgb, *_maps(lens), cv2.INTER_LINEAR), np.uint8)


def rectify_depth(depth: Depth, lens: Lens | None) -> Depth:
    """Raw depth (H,W) m -> rectified, along the rectified camera's axis; NaN where the raw image ends.

    It takes the nearest pixel, never a mean over an edge.
    """
    if lens is None:
        return depth
    import cv2

    x, y = _maps(lens)
    near = cv2.remap(depth, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"))
    if np.allclose(np.reshape(lens.R, (3, 3)), np.eye(3), atol=1e-6):
        return np.asarray(near, np.float32)  # the axis is the same, and so is z along it
    v, u = np.indices(near.shape)
    z = _raw_rays(np.column_stack([u.ravel(), v.ravel()]), lens)[:, 2].reshape(v.shape)
    return np.asarray(near / z, np.float32)


def raw_point(point: ImagePoint, lens: Lens | None) -> ImagePoint:
    """A point of the rectified image where it is in the raw one, its covariance rotated and scaled with
    it."""
    if lens is None:
        return point
    half = 0.5
    steps = np.array([[0, 0], [half, 0], [-half, 0], [0, half], [0, -half]])
    raw = distort(np.array([point.x, point.y]) + steps, lens)
    J = np.stack([raw[1] - raw[2], raw[3] - raw[4]], axis=1)  # d raw / d rectified, over one pixel
    x, y = map(float, raw[0])
    return replace(point, x=x, y=y, covariance=J @ point.covariance @ J.T)


def raw_target(target: GraspTarget, lens: Lens | None) -> GraspTarget:
    """A target whose pixel is that of the raw image; the rest of it is in 3D and stays."""
    return target if lens is None else replace(target, point=raw_point(target.point, lens))


def raw_grounding(grounding: Grounding, lens: Lens | None) -> Grounding:
    """All points of an answer as in ``raw_point``: pixels as in the image that was published."""
    if lens is None:
        return grounding
    points = tuple(raw_point(point, lens) for point in grounding.answer.points)
    targets = tuple(raw_target(target, lens) for target in grounding.targets)
    return replace(grounding, answer=replace(grounding.answer, points=points), targets=targets)


def distort(pixels: npt.NDArray[Any], lens: Lens) -> Array:
    """(N,2) px of the rectified image -> (N,2) px of the raw image."""
    import cv2

    K, D = np.reshape(lens.K, (3, 3)), np.array(lens.D)
    rays = np.ascontiguousarray(_raw_rays(pixels, lens)[:, None])
    project: Any = cv2.fisheye.projectPoints if lens.model == FISHEYE else cv2.projectPoints
    raw = project(rays, np.zeros(3), np.zeros(3), K, D)[0]
    return np.asarray(raw, dtype=np.float64).reshape(-1, 2)


def undistort(pixels: npt.NDArray[Any], lens: Lens) -> Array:
    """(N,2) px of the raw image -> (N,2) px of the rectified image."""
    import cv2

    K, R, K_new = (np.reshape(values, (3, 3)) for values in (lens.K, lens.R, lens.K_new))
    points = np.ascontiguousarray(pixels, dtype=np.float64).reshape(-1, 1, 2)
    way: Any = cv2.fisheye.undistortPoints if lens.model == FISHEYE else cv2.undistortPoints
    return np.asarray(way(points, K, np.array(lens.D), R=R, P=K_new), dtype=np.float64).reshape(-1, 2)


def _raw_rays(pixels: npt.NDArray[Any], lens: Lens) -> Array:
    """Rays (N,3) in the raw camera through (N,2) px of the rectified image; z = 1 in the rectified camera."""
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(np.reshape(lens.K_new, (3, 3))).T
    return np.asarray(rays @ np.reshape(lens.R, (3, 3)))  # R takes raw to rectified: its inverse is R^T


@lru_cache(maxsize=8)  # once per camera; 2.5 MB at 640x480
def _maps(lens: Lens) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Where each rectified pixel is in the raw image, x and y (H,W)."""
    import cv2

    K, D = np.reshape(lens.K, (3, 3)), np.array(lens.D)
    R, K_new = np.reshape(lens.R, (3, 3)), np.reshape(lens.K_new, (3, 3))
    find = cv2.fisheye.initUndistortRectifyMap if lens.model == FISHEYE else cv2.initUndistortRectifyMap
    x, y = find(K, D, R, K_new, (lens.width, lens.height), cv2.CV_32FC1)
    return np.asarray(x, np.float32), np.asarray(y, np.float32)


def _numbers(values: npt.NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.asarray(values).ravel())
