"""The queried image with what was found in it: masks, points with their uncertainty, labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFilter

from molmo_ros.datatypes import Array, GraspTarget, Image, ImagePoint, Mask, TargetStatus
from molmo_ros.draw import labels
from molmo_ros.draw.style import INK, PANEL, WARN, Color, Floats, accent, font, shorten, text_width

TINT = 0.12  # how much of the accent colour the object's mask takes
MAX_LABELS = 24  # beyond this the labels would hide the image; the points are still drawn


@dataclass(frozen=True)
class _Mark:
    point: ImagePoint
    color: Color
    text: str
    mask: Mask | None


def annotate(rgb: Image, found: Sequence[GraspTarget | ImagePoint], title: str = "") -> Image:
    """Draw targets, or bare points, into a copy of the image; nothing found gives a banner that says so.

    Args: rgb (H,W,3) uint8; found, best first; title, usually the query.
    Returns: (H,W,3) uint8 of the same size.
    """
    height, width = rgb.shape[:2]
    unit = max(min(width, height) / 480.0, 0.3)  # one "px" of the design at 640x480
    marks = [_mark(item, accent(i)) for i, item in enumerate(found)]
    canvas = PilImage.fromarray(np.ascontiguousarray(rgb)).convert("RGB")
    for mark in reversed(marks):
        if mark.mask is not None and mark.mask.shape == (height, width):
            _tint(canvas, mark.mask, mark.color, unit)
    _draw_points(canvas, marks, unit)
    title_box = _draw_title(canvas, title, bool(marks), unit)
    _draw_labels(canvas, marks[:MAX_LABELS], title_box, unit)
    annotated: Image = np.array(canvas, dtype=np.uint8)
    return annotated


def _mark(item: GraspTarget | ImagePoint, color: Color) -> _Mark:
    if isinstance(item, ImagePoint):
        return _Mark(item, color, _caption(item), None)
    text = _caption(item.point)
    if item.status is not TargetStatus.OK:
        text += " · " + item.status.name.lower().replace("_", " ")
    return _Mark(item.point, color, text, None if item.segment is None else item.segment.mask)


def _caption(point: ImagePoint) -> str:
    """What it is, and how sure the model is of it, if that is known."""
    sure = "" if math.isnan(point.confidence) else f" {point.confidence:.2f}"
    return (point.label or "point") + sure


def _tint(canvas: PilImage.Image, mask: Mask, color: Color, unit: float) -> None:
    """Tint a mask and trace its edge; the blurred mask gives an antialiased contour of even width."""
    if not mask.any():
        return
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    pad = int(4 * unit) + 3
    x0, y0 = max(cols[0] - pad, 0), max(rows[0] - pad, 0)
    x1, y1 = min(cols[-1] + pad + 1, mask.shape[1]), min(rows[-1] + pad + 1, mask.shape[0])
    stencil = PilImage.fromarray((mask[y0:y1, x0:x1] * 255).astype(np.uint8))
    sigma = max(2.2 * unit, 1.0)
    soft = np.asarray(stencil.filter(ImageFilter.GaussianBlur(sigma)), dtype=np.float32) / 255
    # A step blurred by a Gaussian has the slope 1 / (sigma sqrt(2 pi)) at its middle.
    edge_px: Floats = ((soft - 0.5) * (sigma * 2.5066)).astype(np.float32)
    area = canvas.crop((int(x0), int(y0), int(x1), int(y1)))
    pixels: Floats = np.asarray(area, dtype=np.float32)
    pixels = _mix(pixels, color, TINT * np.clip(edge_px + 0.5, 0, 1))
    pixels = _mix(pixels, PANEL, 0.45 * np.clip(1.9 * unit - np.abs(edge_px), 0, 1))
    pixels = _mix(pixels, color, np.clip(1.1 * unit - np.abs(edge_px), 0, 1))
    canvas.paste(PilImage.fromarray(pixels.clip(0, 255).astype(np.uint8)), (int(x0), int(y0)))


def _mix(pixels: Floats, color: Color, alpha: Floats | Array) -> Floats:
    a = np.asarray(alpha, dtype=np.float32)[..., None]
    return np.asarray(pixels * (1 - a) + np.array(color, dtype=np.float32) * a, dtype=np.float32)


def _draw_points(canvas: PilImage.Image, marks: Sequence[_Mark], unit: float) -> None:
    """Draw each point as a small ringed cross inside its 2-sigma ellipse, antialiased by supersampling."""
    for mark in reversed(marks):
        outline = ellipse_outline(mark.point, limit=0.25 * max(canvas.size))
        reach = max(float(np.abs(outline - [mark.point.x, mark.point.y]).max()), 9 * unit) + 4 * unit
        _stamp_point(canvas, mark, outline, reach, unit)


def _stamp_point(canvas: PilImage.Image, mark: _Mark, outline: Array, reach: float, unit: float) -> None:
    ss = 4 if reach < 300 else 2
    x, y = mark.point.x + 0.5, mark.point.y + 0.5  # Pillow counts from the corner of a pixel
    left, top = int(x - reach), int(y - reach)
    side = int(2 * reach) + 2
    layer = PilImage.new("RGBA", (side * ss, side * ss))
    pen = ImageDraw.Draw(layer)
    cx, cy = (x - left) * ss, (y - top) * ss
    ring = [((px + 0.5 - left) * ss, (py + 0.5 - top) * ss) for px, py in outline]
    pen.polygon(ring, fill=(*mark.color, 34))
    for color, grow in (((*PANEL, 170), 1.6), ((*mark.color, 255), 0.0)):
        pen.line([*ring, *ring[:2]], fill=color, width=round((1.3 + grow) * unit * ss), joint="curve")
    for color, grow in (((*PANEL, 230), 1.4), ((*INK, 255), 0.0)):
        arm, half = (6.5 + grow) * unit * ss, (0.9 + grow) * unit * ss
        pen.rectangle((cx - arm, cy - half, cx + arm, cy + half), fill=color)
        pen.rectangle((cx - half, cy - arm, cx + half, cy + arm), fill=color)
    r = 3.4 * unit * ss
    pen.ellipse(
        (cx - r, cy - r, cx + r, cy + r),
        fill=(*mark.color, 255),
        outline=(*PANEL, 255),
        width=round(unit * ss),
    )
    layer = layer.reduce(ss)
    canvas.paste(layer, (left, top), layer)


def ellipse_outline(point: ImagePoint, sigmas: float = 2.0, limit: float = np.inf) -> Array:
    """Return the outline (48,2) px of a point's uncertainty ellipse, each axis at most limit px."""
    values, vectors = np.linalg.eigh(np.nan_to_num(point.covariance, nan=0.0, posinf=limit**2, neginf=0.0))
    axes = np.minimum(sigmas * np.sqrt(np.maximum(values, 0.0)), limit)
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    circle = np.stack([np.cos(t), np.sin(t)], axis=-1)
    return np.asarray((circle * axes) @ vectors.T + [point.x, point.y])


def _draw_title(canvas: PilImage.Image, title: str, found: bool, unit: float) -> labels.Box | None:
    """Draw the query top left, or the nothing-found banner in its place; return its box."""
    if found and not title:
        return None
    size = max(round(15 * unit), 9)
    pad, margin = 8 * unit, 10 * unit
    text = title if found else f"nothing found: {title}" if title else "nothing found"
    text = shorten(text, size, canvas.width - 2 * (pad + margin) - 12 * unit)
    bar = 5 * unit
    box = labels.Box(margin, margin, text_width(text, size) + 2 * pad + bar, size * 1.35 + 2 * pad * 0.6)
    _chip(canvas, box, text, size, accent(0) if found else WARN, pad, unit)
    return box


def _draw_labels(
    canvas: PilImage.Image, marks: Sequence[_Mark], title: labels.Box | None, unit: float
) -> None:
    size = max(round(13.5 * unit), 9)
    pad, bar = 6 * unit, 4 * unit
    texts = [shorten(m.text, size, 0.6 * canvas.width) for m in marks]
    sizes = [(text_width(t, size) + 2 * pad + bar, size * 1.35 + pad * 0.8) for t in texts]
    points = [(m.point.x, m.point.y) for m in marks]
    masks = [m.mask for m in marks if m.mask is not None]
    taken = [] if title is None else [title]
    boxes = labels.place(points, sizes, canvas.size, taken, masks, gap=12 * unit)
    for mark, box in zip(marks, boxes, strict=True):
        _leader(canvas, mark, box, unit)
    for mark, text, box in zip(marks, texts, boxes, strict=True):
        _chip(canvas, box, text, size, mark.color, pad, unit)


def _leader(canvas: PilImage.Image, mark: _Mark, box: labels.Box, unit: float) -> None:
    """Join a label to its point when it does not lie right beside it."""
    end = box.nearest(mark.point.x, mark.point.y)
    start = np.array([mark.point.x, mark.point.y])
    length = float(np.hypot(*(end - start)))
    if length < 16 * unit:
        return
    start = start + (end - start) * (10 * unit / length)
    ss, pad = 4, 4 * unit + 2
    corner = np.floor(np.minimum(start, end) - pad).astype(int)
    size = np.ceil(np.maximum(start, end) + pad).astype(int) - corner
    layer = PilImage.new("RGBA", (int(size[0]) * ss, int(size[1]) * ss))
    pen = ImageDraw.Draw(layer)
    line = [*((start + 0.5 - corner) * ss), *((end + 0.5 - corner) * ss)]
    pen.line(line, fill=(*PANEL, 210), width=round(3.2 * unit * ss))
    pen.line(line, fill=(*mark.color, 255), width=round(1.5 * unit * ss))
    layer = layer.reduce(ss)
    canvas.paste(layer, (int(corner[0]), int(corner[1])), layer)


def _chip(
    canvas: PilImage.Image, box: labels.Box, text: str, size: int, color: Color, pad: float, unit: float
) -> None:
    """Draw a dark rounded chip with a bar of the target's colour and one line of text."""
    ss = 3
    w, h = int(np.ceil(box.w)), int(np.ceil(box.h))
    shape = PilImage.new("L", (w * ss, h * ss))
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, w * ss - 1, h * ss - 1), radius=4 * unit * ss, fill=255)
    alpha = shape.reduce(ss)
    chip = PilImage.new("RGB", (w, h), PANEL)
    pen = ImageDraw.Draw(chip)
    bar = max(round(4 * unit), 2)
    pen.rectangle((0, 0, bar - 1, h), fill=color)
    pen.text((bar + pad, h / 2), text, font=font(size), fill=INK, anchor="lm")
    at = (round(box.x), round(box.y))
    canvas.paste(chip, at, alpha.point(lambda a: a * 0.88))
