"""Many annotated images in one file: a video (.mp4), or a contact sheet (a picture)."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image as PilImage

from molmo_ros.datatypes import Image
from molmo_ros.draw.style import PANEL
from molmo_ros.errors import FrameError

VIDEO = ".mp4"
TILES, TILE_WIDTH = 24, 320


class Film:
    """Add images in order; ``close``, or the end of a with block, completes the file."""

    def __init__(self, path: str | Path, rate_hz: float) -> None:
        self._path, self._rate_hz = Path(path), rate_hz
        self._writer: Any = None
        self._size = (0, 0)
        self._tiles: list[Image] = []
        self._every, self._count = 1, 0

    def __enter__(self) -> Film:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, rgb: Image) -> None:
        """rgb (H,W,3) uint8; all images of a film are shown at the size of the first. Raises: FrameError."""
        if self._path.suffix.lower() == VIDEO:
            self._write(rgb)
        else:
            self._keep(rgb)

    def close(self) -> None:
        """Complete the file; without images there is none."""
        if self._writer is not None:
            self._writer.release()
        if self._tiles:
            self._sheet().save(self._path)

    def _write(self, rgb: Image) -> None:
        import cv2

        if self._writer is None:
            height, width = (2 * (side // 2) for side in rgb.shape[:2])  # as the codec wants it
            self._size = (width, height)
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), code, max(self._rate_hz, 1.0), self._size)
            if not self._writer.isOpened():
                raise FrameError(f"This OpenCV cannot write {self._path}; give a name that ends in .png.")
        if (rgb.shape[1], rgb.shape[0]) != self._size:
            rgb = cv2.resize(rgb, self._size).astype(np.uint8)
        self._writer.write(np.ascontiguousarray(rgb[:, :, ::-1]))

    def _keep(self, rgb: Image) -> None:
        """Every n-th image, n doubling as the sheet fills, so that it spans the whole film."""
        if self._count % self._every == 0:
            if len(self._tiles) == TILES:
                self._tiles, self._every = self._tiles[::2], 2 * self._every
            if self._count % self._every == 0:
                self._tiles.append(_small(rgb))
        self._count += 1

    def _sheet(self) -> PilImage.Image:
        columns = min(len(self._tiles), 4)
        width, height = TILE_WIDTH, max(tile.shape[0] for tile in self._tiles)
        rows = math.ceil(len(self._tiles) / columns)
        gap = 4
        sheet = PilImage.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), PANEL)
        for i, tile in enumerate(self._tiles):
            at = (i % columns * (width + gap), i // columns * (height + gap))
            sheet.paste(PilImage.fromarray(tile), at)
        return sheet


def _small(rgb: Image) -> Image:
    height = round(rgb.shape[0] * TILE_WIDTH / rgb.shape[1])
    resized = PilImage.fromarray(rgb).resize((TILE_WIDTH, height), PilImage.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.uint8)
