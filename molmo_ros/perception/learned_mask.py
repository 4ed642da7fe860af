"""The mask of the thing at a point, by a small network that has learned what things are (docs/segmenting.md).

It sees a crop around the point, of one metric size whatever the distance, and runs in ONNX Runtime on one
core. How it was trained: ``tools/segmenter``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Array, Depth, Float32, ImagePoint, Mask, RgbdFrame
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.perception.depth import DepthOptions, valid_depth

MODEL = Path(__file__).parent.parent / "assets" / "segmenter" / "mask.onnx"
CROP = 112  # cells along a side of what the network sees
HALF_M = 0.24  # half the side of the crop, at the depth of the point
AT_ONCE = 0.9  # expected IoU below which the network looks a second time, at the mirrored crop
MIRROR = np.array([-1.0, 1.0, 1.0, 1.0], np.float32)  # swaps left and right, of a point or a plane
ISLAND = -0.85  # logit of cells that the network marks apart from the point: 3 of 10 are right


@dataclass(frozen=True)
class Crop:
    """A square of CROP cells around a point, the network's input.

    rgb (S,S,3) 0..255; depth (S,S) m, 0 where there is none; rays (4,): cell i, j looks along
    (rays[0] + rays[1] j, rays[2] + rays[3] i, 1). side: its edge in pixels; x, y: its middle, the point.
    """

    rgb: Float32
    depth: Float32
    rays: Float32
    side: float
    x: float
    y: float


@dataclass(frozen=True)
class LearnedMask:
    """mask (H,W) of the thing; confidence 0..1, the IoU that the network expects."""

    mask: Mask
    confidence: float


class MaskNetwork:
    """The trained network, loaded. Thread-safe, as ONNX Runtime's sessions are."""

    def __init__(self, path: Path = MODEL) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeUnavailableError(
                "The learned mask needs onnxruntime: pip install onnxruntime; or set segmenter to geometry."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    @staticmethod
    @lru_cache(maxsize=1)
    def shared() -> MaskNetwork:
        """The built-in one, loaded on first use."""
        return MaskNetwork()

    def __call__(
        self, frame: RgbdFrame, point: ImagePoint, position: Array, plane: Array | None
    ) -> LearnedMask:
        """Segment the thing at a point; position (3,) m: it lifted; plane (4,): its support, if known.

        Where it is not quite sure it looks again, with left and right swapped, and both looks are averaged:
        where they contradict each other, the mask is less sure.
        """
        crop = crop_around(frame, point.x, point.y, float(position[2]))
        at = np.asarray(position, dtype=np.float32)
        support = np.zeros(4, np.float32) if plane is None else plane.astype(np.float32)
        logits = self._logits(crop, at, support)
        thing = one_piece(logits)
        if _expected_iou(thing) < AT_ONCE:
            mirrored = self._logits(_mirrored(crop), at * MIRROR[:3], support * MIRROR)[:, ::-1]
            thing = one_piece((logits + mirrored) * np.float32(0.5))
        return LearnedMask(_spread(thing, crop, frame.depth.shape), _expected_iou(thing))

    def _logits(self, crop: Crop, position: Float32, plane: Float32) -> Float32:
        """Logits (S,S) of the thing at position (3,); plane (4,), zeros if it is not known."""
        inputs = {
            "rgb": crop.rgb[None],
            "depth": crop.depth[None],
            "rays": crop.rays[None],
            "point": position[None],
            "plane": plane[None],
        }
        logits: Float32 = self._session.run(["logits"], inputs)[0][0, 0]
        return logits


def crop_around(frame: RgbdFrame, x: float, y: float, z: float, half_m: float = HALF_M) -> Crop:
    """Cut the square of half side half_m m at depth z m around pixel x, y out of a frame.

    Cells are samples: bilinear for colour, the nearest pixel for depth. Beyond the image both are 0.
    """
    fx, fy, cx, cy = (float(frame.K[k]) for k in ((0, 0), (1, 1), (0, 2), (1, 2)))
    side = 2 * half_m * fx / z
    step = side / CROP
    u0, v0 = x - step * (CROP - 1) / 2, y - step * (CROP - 1) / 2
    to_image = np.array([[step, 0.0, u0], [0.0, step, v0]])
    sampled = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    rgb = cv2.warpAffine(frame.rgb, to_image, (CROP, CROP), flags=sampled, borderValue=(0, 0, 0))
    u, v = np.rint(u0 + step * np.arange(CROP)), np.rint(v0 + step * np.arange(CROP))
    return Crop(
        rgb=rgb.astype(np.float32),
        depth=_nearest(frame.depth, v.astype(np.intp), u.astype(np.intp)),
        rays=np.array([(u0 - cx) / fx, step / fx, (v0 - cy) / fy, step / fy], np.float32),
        side=side,
        x=x,
        y=y,
    )


def _mirrored(crop: Crop) -> Crop:
    """The same crop with left and right swapped, as of a mirrored world."""
    rays = crop.rays.copy()
    rays[0] = -(rays[0] + rays[1] * (CROP - 1))
    rgb, depth = (np.ascontiguousarray(image[:, ::-1]) for image in (crop.rgb, crop.depth))
    return replace(crop, rgb=rgb, depth=depth, rays=rays)


def _nearest(depth: Depth, v: npt.NDArray[np.intp], u: npt.NDArray[np.intp]) -> Float32:
    """Depth (S,S) at rows v (S,) and columns u (S,), 0 where there is none or they lie beyond the image."""
    height, width = depth.shape
    cut = depth[np.clip(v, 0, height - 1)[:, None], np.clip(u, 0, width - 1)[None]]
    inside = ((v >= 0) & (v < height))[:, None] & ((u >= 0) & (u < width))[None]
    return np.where(inside & valid_depth(cut, DepthOptions()), cut, np.float32(0)).astype(np.float32)


def one_piece(logits: Float32) -> Float32:
    """Of the cells (S,S) above 0, keep only those that are connected to the middle, the point.

    What the network marks apart from the thing at the point is mostly a similar second one: where a mask had
    several pieces, a third of those without the point were right, with or without an occluder.
    """
    label = cv2.connectedComponents((logits > 0).astype(np.uint8), connectivity=8)[1]
    i, j = np.nonzero(label)
    if len(i) == 0:
        return logits
    nearest = int(np.argmin(np.hypot(i - (CROP - 1) / 2, j - (CROP - 1) / 2)))
    apart = (label > 0) & (label != label[i[nearest], j[nearest]])
    return np.where(apart, np.float32(ISLAND), logits)


def _spread(logits: Float32, crop: Crop, shape: tuple[int, int]) -> Mask:
    """Spread the logits (S,S) of a crop over the image (H,W) and cut them at 0."""
    step = crop.side / CROP
    u0, v0 = crop.x - step * (CROP - 1) / 2, crop.y - step * (CROP - 1) / 2
    left, top = max(int(u0), 0), max(int(v0), 0)
    right = min(int(u0 + step * CROP) + 1, shape[1])
    bottom = min(int(v0 + step * CROP) + 1, shape[0])
    mask = np.zeros(shape, dtype=np.bool_)
    if right <= left or bottom <= top:
        return mask
    to_crop = np.array([[1 / step, 0.0, (left - u0) / step], [0.0, 1 / step, (top - v0) / step]])
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    size = (right - left, bottom - top)
    mask[top:bottom, left:right] = cv2.warpAffine(logits, to_crop, size, flags=flags, borderValue=-1.0) > 0
    return mask


def _expected_iou(logits: Float32) -> float:
    """Return the IoU 0..1 that a mask, the cells whose logits (S,S) are above 0, is expected to have.

    E|M and T| / E|M or T|, if each cell belongs to the thing T with the predicted probability, independently.
    On simulated frames it tells good masks from bad ones better than an IoU that the network is trained to
    predict.
    """
    probability = 1 / (1 + np.exp(-logits))
    inside = logits > 0
    either = np.count_nonzero(inside) + float(probability[~inside].sum())
    return float(probability[inside].sum()) / max(either, 1e-6)
