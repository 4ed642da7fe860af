"""What the tracker keeps of a frame: a small copy, and how pixels and points relate in it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Depth, Image, Mask, RgbdFrame
from molmo_ros.transforms import transform_points


@dataclass(frozen=True)
class TrackOptions:
    """Pixels are those of the small image on which the work is done, ``width`` wide."""

    width: int = 320
    window_px: int = 21  # of the flow: smooth objects show little more than their outline
    levels: int = 3
    corners: int = 60
    least_corners: int = 6
    samples: int = 160
    back_px: float = 0.6  # a corner must come back this close when it is followed backwards
    jump_m: float = 0.1  # nothing comes nearer by more than this from one view to the next
    depth_m: float = 0.015  # a sample agrees with the image up to here ...
    color: float = 45.0  # ... and up to this distance in RGB
    least_seen: float = 0.3  # share of samples that must agree, else it is lost
    found_again: float = 0.55  # share that must agree where something lost is found again
    search_px: float = 44.0
    near_m: float = 0.08  # an answer this close to where a track was is the same thing
    near_lost_m: float = 0.30
    radius_m: float = 0.03  # of the patch, if nothing has segmented the object


DEFAULT_TRACK = TrackOptions()


@dataclass(frozen=True)
class View:
    """What is kept of a frame: gray (h,w), rgb (h,w,3), depth (h,w) m with NaN, K of it, and its scale."""

    gray: Image
    rgb: Image
    depth: Depth
    K: Array
    scale: float
    stamp_ns: int


@dataclass(frozen=True)
class Surface:
    """Samples of what is followed: points (M,3) m in the optical frame of the view it was first seen in, and
    their colors (M,3) there. Without depth all of them are as far away as the point that was named."""

    points: Array
    colors: Array
    has_depth: bool


def make_view(frame: RgbdFrame, options: TrackOptions = DEFAULT_TRACK) -> View:
    """A small copy of a frame, on which everything here works."""
    height, width = frame.depth.shape
    scale = min(1.0, options.width / width)
    size = (round(width * scale), round(height * scale))
    rgb = cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)
    depth = cv2.resize(frame.depth, size, interpolation=cv2.INTER_NEAREST)
    K = frame.K.astype(np.float64).copy()
    K[:2, :] *= scale
    K[:2, 2] += (scale - 1) / 2  # (0, 0) is the centre of a pixel
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return View(
        np.asarray(gray, np.uint8),
        np.asarray(rgb, np.uint8),
        np.asarray(depth, np.float32),
        K,
        scale,
        frame.stamp_ns,
    )


def sample(view: View, pixels: Array) -> tuple[Array, Array, Mask]:
    """Depth (...) and colour (...,3) at pixels (...,2), and which of them are inside."""
    height, width = view.gray.shape
    rounded = np.rint(np.nan_to_num(pixels, nan=-9.0)).astype(np.int64)
    u, v = rounded[..., 0], rounded[..., 1]
    inside = (u >= 0) & (v >= 0) & (u < width) & (v < height)
    u, v = np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)
    return view.depth[v, u].astype(np.float64), view.rgb[v, u].astype(np.float64), np.asarray(inside)


def depth_at(view: View, pixels: Array) -> Array:
    """Depth (N,) m at pixels (N,2): the median of a small cross, NaN where nothing is known."""
    offsets = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], np.float64)
    depth, _, _ = sample(view, pixels[:, None] + offsets)
    depth = np.sort(depth, axis=1)  # NaN last
    count = np.isfinite(depth).sum(1)
    return np.asarray(depth[np.arange(len(depth)), np.maximum(count - 1, 0) // 2])


def project(points: Array, K: Array) -> Array:
    z = np.maximum(points[:, 2:], 1e-3)
    return np.asarray(points[:, :2] / z * [K[0, 0], K[1, 1]] + [K[0, 2], K[1, 2]])


def lift_pixels(pixels: Array, z: Array, K: Array) -> Array:
    x = (pixels[:, 0] - K[0, 2]) / K[0, 0] * z
    y = (pixels[:, 1] - K[1, 2]) / K[1, 1] * z
    return np.stack([x, y, z], 1)


def full_size(pixel: Array, scale: float) -> Array:
    return np.asarray((pixel + 0.5) / scale - 0.5)


def agrees(surface: Surface, T: Array, view: View, options: TrackOptions) -> Mask:
    """(M,) which samples, moved by T, agree with the view in colour and depth."""
    points = transform_points(T, surface.points)
    depth, colors, inside = sample(view, project(points, view.K))
    near = ~(np.abs(depth - points[:, 2]) > options.depth_m) | (not surface.has_depth)
    return np.asarray(inside & near & (np.linalg.norm(colors - surface.colors, axis=1) < options.color))


def seen_share(surface: Surface, T: Array, view: View, options: TrackOptions) -> float:
    """Share of the samples that agree."""
    return float(np.mean(agrees(surface, T, view, options)))
