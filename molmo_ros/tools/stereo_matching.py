"""A stereo camera with nothing modelled: two rendered views and a projector's dots, matched by OpenCV's SGBM.

The reference for the model in sim/stereo.py. Too slow for training data: it renders twice.
"""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import AnyArray, Array, Depth, Image
from molmo_ros.sim.render import Render, Renderer

BASELINE_M = 0.055
FARTHEST, MOST = 8, 128  # px of disparity
DOTS = 0.06  # share of pixels that the projector lights
GREY_NOISE = 3.0


def matched_depth(
    renderer: Renderer, K: Array, size: tuple[int, int], T_world_camera: Array, rng: np.random.Generator
) -> tuple[Render, Depth]:
    """Return the left view and its depth (H,W) m by matching; NaN where there is no match."""
    left = renderer.render(K, *size, T_world_camera)
    T = T_world_camera.copy()
    T[:3, 3] += BASELINE_M * T[:3, 0]
    right = renderer.render(K, *size, T)
    dots = cv2.GaussianBlur((rng.random(size[::-1]) < DOTS).astype(np.float32), (0, 0), 0.7)
    disparity = K[0, 0] * BASELINE_M / np.nan_to_num(right.depth, nan=50.0)
    u, v = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    from_left = (u + disparity).astype(np.float32)
    lit = cv2.remap(dots, from_left, v, cv2.INTER_LINEAR)
    seen = cv2.remap(left.depth, from_left, v, cv2.INTER_NEAREST)
    lit = np.where(np.abs(seen - right.depth) < 0.01, lit, 0)  # what is in the projector's shadow has no dots
    found = _sgbm(_infrared(left.rgb, dots, rng), _infrared(right.rgb, lit, rng))
    return left, np.where(found > 0, K[0, 0] * BASELINE_M / np.maximum(found, 1e-3), np.nan).astype(
        np.float32
    )


def _infrared(rgb: Image, dots: AnyArray, rng: np.random.Generator) -> Image:
    """Grey image (H,W) uint8 of a surface that the dots light, with noise."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    lit = grey * (0.6 + 2.5 * dots) + 60 * dots
    return np.asarray(np.clip(lit + GREY_NOISE * rng.standard_normal(grey.shape), 0, 255), np.uint8)


def _sgbm(left: Image, right: Image) -> Array:
    """Disparity (H,W) px, 0 where there is none."""
    block = 7
    matcher = cv2.StereoSGBM.create(
        minDisparity=FARTHEST,
        numDisparities=MOST - FARTHEST + 8,
        blockSize=block,
        P1=8 * block**2,
        P2=32 * block**2,
        disp12MaxDiff=1,
        uniquenessRatio=8,
        speckleWindowSize=150,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )
    border = 128  # the matcher leaves the left border out: its camera sees farther
    wide = [cv2.copyMakeBorder(x, 0, 0, border, 0, cv2.BORDER_CONSTANT) for x in (left, right)]
    found = matcher.compute(*wide)[:, border:].astype(np.float32) / 16
    return np.where(found >= FARTHEST, found, 0)
