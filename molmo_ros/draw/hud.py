"""What lies flat on the 3D view: the small axes in the corner and the badge of a target."""

from __future__ import annotations

import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

from molmo_ros.datatypes import Array, Image
from molmo_ros.draw.style import INK, PANEL, QUIET, Color, font

AXIS_COLORS: tuple[Color, Color, Color] = ((255, 92, 92), (96, 214, 120), (92, 156, 255))


def triad(image: Image, R_eye_frame: Array, frame_id: str) -> Image:
    """Draw the axes of a frame, whose rotation into the eye's axes is (3,3), into the bottom-left corner."""
    height, width = image.shape[:2]
    scale = min(width, height) / 480
    ss, arm = 3, 34 * scale
    side = round(2.9 * arm)
    layer = PilImage.new("RGBA", (side * ss, side * ss))
    pen = ImageDraw.Draw(layer)
    centre = np.array([side / 2, side / 2])
    order = sorted(range(3), key=lambda i: -R_eye_frame[2, i])  # the farthest axis first
    tips = centre + arm * R_eye_frame[:2].T
    for i in order:  # dark edges keep the axes readable on a bright cloud
        pen.line([*(centre * ss), *(tips[i] * ss)], fill=PANEL, width=round(5.2 * scale * ss))
    for i in order:
        pen.line([*(centre * ss), *(tips[i] * ss)], fill=AXIS_COLORS[i], width=round(2.6 * scale * ss))
    layer = layer.reduce(ss)
    pen = ImageDraw.Draw(layer)
    for i in order:
        at = centre + (arm + 8 * scale) * R_eye_frame[:2, i] / max(float(np.hypot(*R_eye_frame[:2, i])), 0.35)
        _text(pen, (at[0], at[1]), "xyz"[i], max(round(13 * scale), 8), AXIS_COLORS[i], "mm")
    canvas = PilImage.fromarray(image)
    corner = (round(2 * scale), height - side - round(20 * scale))
    canvas.paste(layer, corner, layer)
    at = (12 * scale, height - 9 * scale)
    _text(ImageDraw.Draw(canvas), at, frame_id, max(round(11 * scale), 8), QUIET, "ls")
    return np.asarray(canvas, dtype=np.uint8)


def _text(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, color: Color, anchor: str
) -> None:
    stroke = max(round(size / 6), 1)
    pen.text(at, text, font=font(size), fill=color, anchor=anchor, stroke_width=stroke, stroke_fill=PANEL)


def dot(image: Image, at: Array, color: Color) -> Image:
    """Draw a ringed dot at a pixel (x, y)."""
    scale = min(image.shape[:2]) / 480
    ss, r = 4, 6.0 * scale
    side = round(2 * r + 6 * scale)
    layer = PilImage.new("RGBA", (side * ss, side * ss))
    c = side * ss / 2
    pen = ImageDraw.Draw(layer)
    for radius, fill in ((r + 1.2 * scale, PANEL), (r, INK), (r - 1.8 * scale, color)):
        pen.ellipse((c - radius * ss, c - radius * ss, c + radius * ss, c + radius * ss), fill=(*fill, 255))
    layer = layer.reduce(ss)
    canvas = PilImage.fromarray(image)
    canvas.paste(layer, (round(at[0] - side / 2), round(at[1] - side / 2)), layer)
    return np.asarray(canvas, dtype=np.uint8)
