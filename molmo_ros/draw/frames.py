"""Frames of a simulated camera side by side: colour, depth in false colour, instance ids."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from molmo_ros.datatypes import Depth, Image

COLUMNS, GAP = 2, 4


def frame_sheet(frames: Sequence[tuple[Image, Depth, np.ndarray]], width: int = 240) -> Image:
    """A contact sheet of (rgb (H,W,3) uint8, depth (H,W) m, ids (H,W)), each picture `width` px wide."""
    cells = [np.concatenate([_small(part, width) for part in _parts(*frame)], axis=1) for frame in frames]
    blank = np.zeros_like(cells[0])
    cells += [blank] * (-len(cells) % COLUMNS)
    framed = [np.pad(cell, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for cell in cells]
    rows = [np.concatenate(framed[k : k + COLUMNS], axis=1) for k in range(0, len(framed), COLUMNS)]
    return np.concatenate(rows)


def _parts(rgb: Image, depth: Depth, ids: np.ndarray) -> tuple[Image, Image, Image]:
    known = np.isfinite(depth)
    near, far = np.quantile(depth[known], [0.01, 0.9]) if known.any() else (0.0, 1.0)
    share = np.clip((np.nan_to_num(depth, nan=near) - near) / max(far - near, 1e-3), 0, 1)
    false = cv2.applyColorMap((255 * (1 - share)).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    false = np.where(known[..., None], false, 0)
    palette = np.random.default_rng(1).integers(70, 256, (256, 3), dtype=np.uint8)
    palette[0] = 25
    return rgb, np.asarray(false, dtype=np.uint8), np.asarray(palette[ids])


def _small(image: Image, width: int) -> Image:
    height = round(image.shape[0] * width / image.shape[1])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
