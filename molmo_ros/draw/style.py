"""Colours and type that all pictures share."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import ImageFont

Color = tuple[int, int, int]
Floats = npt.NDArray[np.float32]

INK: Color = (246, 247, 249)  # text on dark
QUIET: Color = (158, 166, 178)  # secondary text
PANEL: Color = (22, 25, 31)  # chips, bars and the background of the 3D view
WARN: Color = (255, 107, 94)
ACCENTS: tuple[Color, ...] = (
    (255, 184, 48),
    (64, 196, 255),
    (178, 132, 255),
    (92, 222, 148),
    (255, 128, 190),
    (214, 226, 84),
)
MAX_CHARS = 1000  # no line of a picture holds more, and measuring text takes time


def accent(index: int) -> Color:
    """Return the colour of the index-th target; the best one is always amber."""
    return ACCENTS[index % len(ACCENTS)]


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's bundled scalable font at a size in px."""
    try:
        face = ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 bundles no scalable font
        return ImageFont.truetype("DejaVuSans.ttf", size)
    if not isinstance(face, ImageFont.FreeTypeFont):
        raise RuntimeError("This Pillow has no FreeType; fix: pip install --force-reinstall Pillow")
    return face


def text_width(text: str, size: int) -> int:
    """Return the width of one line in px."""
    return round(font(size).getlength(text))


def shorten(text: str, size: int, max_width: float) -> str:
    """Return text on one line, cut with an ellipsis so that it fits max_width px."""
    text = " ".join(text[:MAX_CHARS].split())
    if text_width(text, size) <= max_width:
        return text
    lengths = range(1, len(text) + 1)
    kept = bisect_right(lengths, max_width, key=lambda n: text_width(text[:n].rstrip() + "...", size))
    return text[:kept].rstrip() + "..."
