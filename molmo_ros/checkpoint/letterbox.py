"""Molmo v1's resize: the image keeps its aspect, and black bars fill the rest, centred.

Equal to torch's result on float32 pixels (bilinear, antialias, align_corners=False) up to the last bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Float32, Image

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def letterbox(image: Image, height: int, width: int) -> tuple[Float32, npt.NDArray[np.bool_]]:
    """(h,w,3) uint8 -> (height,width,3) float32 0..255, and where it shows the image (height,width)."""
    inner = _inner_size(image.shape[0], image.shape[1], height, width)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    place = (slice(top, top + inner[0]), slice(left, left + inner[1]))
    canvas = np.zeros((height, width, 3), dtype=np.float32)
    canvas[place] = resize_antialias(image, *inner)
    shown = np.zeros((height, width), dtype=np.bool_)
    shown[place] = True
    return canvas, shown


def _inner_size(h: int, w: int, height: int, width: int) -> tuple[int, int]:
    """The scale is computed in float32 and the sizes truncated, as when the models were trained."""
    scale = min(np.float32(height) / np.float32(h), np.float32(width) / np.float32(w))
    return int(np.float32(h) * scale), int(np.float32(w) * scale)


def resize_antialias(image: Image, height: int, width: int) -> Float32:
    """(h,w,3) uint8 -> (height,width,3) float32 0..255: rows first, the cheaper product."""
    h, w = image.shape[:2]
    if 0 in (height, width):
        return np.zeros((height, width, 3), dtype=np.float32)
    values = image.astype(np.float32)
    if height != h:
        values = np.asarray(_taps(h, height) @ values.reshape(h, -1)).reshape(height, w, 3)
    if width != w:
        columns = np.ascontiguousarray(values.transpose(1, 0, 2)).reshape(w, -1)
        values = np.asarray(_taps(w, width) @ columns).reshape(width, height, 3).transpose(1, 0, 2)
    return np.clip(values, 0, 255)


def _taps(source: int, target: int) -> csr_matrix[Any]:
    """The weights (target, source) of a triangle filter as wide as a target pixel, but at least a source
    pixel.

    Positions are rounded to float32 where torch rounds them.
    """
    from scipy.sparse import csr_matrix

    scale = np.float32(source) / np.float32(target)
    support = max(float(scale), 1.0)
    centre = (float(scale) * (np.arange(target) + 0.5)).astype(np.float32)
    first = np.maximum((centre - np.float32(support) + np.float32(0.5)).astype(np.int64), 0)
    last = np.minimum((centre + np.float32(support) + np.float32(0.5)).astype(np.int64), source)
    offsets = np.arange(int((last - first).max()))
    index = first[:, None] + offsets
    distance = (index - centre[:, None].astype(np.float64) + 0.5) / support
    weights = np.where(index < last[:, None], np.maximum(1 - np.abs(distance), 0), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(target), len(offsets))
    kept = weights.ravel() > 0
    entries = (weights.ravel()[kept].astype(np.float32), (rows[kept], index.ravel()[kept]))
    return csr_matrix(entries, shape=(target, source))
