"""Smooth random fields: errors of a sensor are alike in neighbouring pixels."""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array

REFERENCE_WIDTH = 640  # px: sizes of errors are given for an image of this width


def pixels(size: float, width: int) -> float:
    """A length given in pixels of a 640 wide image, in pixels of an image that is `width` wide."""
    return size * width / REFERENCE_WIDTH


def smooth_field(shape: tuple[int, int], size_px: float, rng: np.random.Generator) -> Array:
    """Gaussian noise (H,W) float32 of unit variance that is alike within about size_px pixels.

    A white grid with a node every size_px, interpolated by cubic splines. Below 1.5 px the noise is white.
    """
    height, width = shape
    if size_px < 1.5:
        return rng.standard_normal(shape, dtype=np.float32)
    step = min(size_px, max(height, width))
    nodes = rng.standard_normal((int(height / step) + 4, int(width / step) + 4), dtype=np.float32)
    du, dv = rng.random(2) + 1
    grid = np.array([[1 / step, 0, du], [0, 1 / step, dv]])
    field = cv2.warpAffine(
        nodes,
        grid,
        (width, height),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    return np.asarray(field * np.float32(1.17))  # interpolation takes a seventh of the deviation


def box(image: Array, radius: int) -> Array:
    """Mean over squares of 2 radius + 1 pixels."""
    return np.asarray(cv2.blur(image, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REPLICATE))
