"""Smooth random fields: errors of a sensor are alike in neighbouring pixels."""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import AnyArray, Array

REFERENCE_WIDTH = 640  # px: sizes of errors are given for an image of this width


def pixels(size: float, width: int) -> float:
    """A length given in pixels of a 640 wide image, in pixels of an image that is `width` wide."""
    return size * width / REFERENCE_WIDTH


def smooth_field(shape: tuple[int, int], size_px: float, rng: np.random.Generator) -> AnyArray:
    """Gaussian noise (H,W) float32 of unit variance that is alike within about size_px pixels.

    A white grid with a node every size_px, interpolated by cubic splines. Below 1.5 px the noise is white.
    """
    height, width = shape
    if size_px < 1.5:
        return rng.standard_normal(shape, dtype=np.float32)
    step = min(size_px, max(height, width))
    rows, columns = (int(np.ceil(n / step)) + 3 for n in shape)
    nodes = rng.standard_normal((rows, columns), dtype=np.float32)
    size = round(columns * step), round(rows * step)
    field = cv2.resize(nodes, size, interpolation=cv2.INTER_CUBIC)
    y, x = (step * (0.5 + rng.random(2))).astype(int)  # no pixel is always a node
    return np.asarray(field[y : y + height, x : x + width] * np.float32(1.17))  # cubic splines lose a seventh


def box(image: Array, radius: int) -> Array:
    """Mean over squares of 2 radius + 1 pixels."""
    return np.asarray(cv2.blur(image, (2 * radius + 1,) * 2, borderType=cv2.BORDER_REPLICATE))


def log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    """Draw a number whose logarithm is uniform, as a plain float: numpy's would turn float32 into float64."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
