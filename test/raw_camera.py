"""The simulated camera with a lens that distorts: what its raw image shows, and where."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Image, RgbdFrame

D = [-0.25, 0.06, 0.001, 0.0, 0.0]
K = np.array(
    [[700.0, 0, 345.0], [0, 702.0, 222.0], [0, 0, 1]]
)  # of the raw image; P is the simulated camera's


class RawCamera:
    """Bends what a pinhole camera saw, as a lens with D and K would."""

    def __init__(self, frame: RgbdFrame) -> None:
        """Where each pixel of the raw image is in the pinhole one, by OpenCV itself."""
        height, width = frame.depth.shape
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 1, 2)
        ideal = cv2.undistortPoints(pixels.astype(np.float64), K, np.array(D), P=frame.K)
        self.pinhole_K = frame.K
        self._x, self._y = np.moveaxis(ideal.reshape(height, width, 2), 2, 0).astype(np.float32)

    def bend(self, frame: RgbdFrame) -> RgbdFrame:
        """The raw frame; its K is still the pinhole camera's."""
        rgb = cv2.remap(frame.rgb, self._x, self._y, cv2.INTER_LINEAR)
        depth = cv2.remap(frame.depth, self._x, self._y, cv2.INTER_NEAREST)
        return replace(frame, rgb=np.asarray(rgb, np.uint8), depth=np.asarray(depth, np.float32))

    def bend_ids(self, ids: Image) -> Image:
        """Instances (H,W) as the raw image shows them."""
        return np.asarray(cv2.remap(ids.astype(np.uint8), self._x, self._y, cv2.INTER_NEAREST), np.uint8)

    def ray(self, u: float, v: float) -> Array:
        """The point (3,) on z = 1 that a pixel of the raw image sees."""
        x, y = cv2.undistortPoints(np.array([[[u, v]]]), K, np.array(D))[0, 0]
        return np.array([x, y, 1.0])

    def pinhole(self, u: float, v: float) -> Array:
        """Where a pixel of the raw image is in the pinhole one (2,)."""
        return np.asarray((self.pinhole_K @ self.ray(u, v))[:2])
