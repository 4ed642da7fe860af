"""Where labels go: beside their points, inside the image, over nothing that matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import Array, Mask

DISTANCES = (1.0, 2.0, 3.5, 5.5, 8.0, 12.0)  # in gaps
OVER_LABEL = 40.0
DIRECTIONS = tuple(np.deg2rad(a) for a in (-45, 0, 45, -90, 90, -135, 180, 135, -20, 20, -160, 160))


@dataclass(frozen=True)
class Box:
    """A rectangle in px: left, top, width, height."""

    x: float
    y: float
    w: float
    h: float

    def overlap(self, other: Box, margin: float = 0.0) -> float:
        """Return the area shared with another box grown by margin."""
        dx = min(self.x + self.w, other.x + other.w + margin) - max(self.x, other.x - margin)
        dy = min(self.y + self.h, other.y + other.h + margin) - max(self.y, other.y - margin)
        return max(dx, 0.0) * max(dy, 0.0)

    def nearest(self, x: float, y: float) -> Array:
        """Return the point of the box that is nearest to (x, y)."""
        return np.array([np.clip(x, self.x, self.x + self.w), np.clip(y, self.y, self.y + self.h)])


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    image_size: tuple[int, int],
    taken: Sequence[Box],
    masks: Sequence[Mask],
    gap: float,
) -> list[Box]:
    """Return one box per point: greedy, best first, over a fan of candidates around the point.

    Args: points (x, y) px; sizes (w, h) px; taken, boxes that are already there; masks (H,W) of objects
    that are better left visible; gap, the px between a point and its label.
    """
    covered = _integral(masks)
    placed: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        options = _candidates(point, size, image_size, gap)
        costs = [_cost(box, point, points, [*taken, *placed], covered, gap) for box in options]
        placed.append(options[int(np.argmin(costs))])
    return placed


def _candidates(
    point: tuple[float, float], size: tuple[float, float], image_size: tuple[int, int], gap: float
) -> list[Box]:
    w, h = size
    boxes = []
    for distance in DISTANCES:
        for angle in DIRECTIONS:
            ax, ay = np.cos(angle), np.sin(angle)
            x = point[0] + ax * distance * gap + (ax - 1) * w / 2
            y = point[1] + ay * distance * gap + (ay - 1) * h / 2
            x = np.clip(x, 2, max(image_size[0] - w - 2, 2))
            y = np.clip(y, 2, max(image_size[1] - h - 2, 2))
            boxes.append(Box(float(x), float(y), w, h))
    return boxes


def _cost(
    box: Box,
    own: tuple[float, float],
    points: Sequence[tuple[float, float]],
    taken: Sequence[Box],
    covered: Array,
    gap: float,
) -> float:
    """Weigh a candidate: hiding a label or a point is worst, then hiding an object, then being far."""
    area = box.w * box.h
    hidden_labels = sum(box.overlap(other, margin=gap / 4) for other in taken) / area
    hidden_points = sum(box.overlap(Box(x, y, 0, 0), margin=gap * 0.75) > 0 for x, y in points)
    distance = float(np.hypot(*(box.nearest(*own) - np.array(own))))
    over_label = OVER_LABEL if hidden_labels else 0.0  # more than any place could gain by touching another
    return (
        over_label
        + 12 * hidden_labels
        + 8 * hidden_points
        + 1.5 * _share(covered, box)
        + 0.12 * distance / gap
    )


def _integral(masks: Sequence[Mask]) -> Array:
    """Return the summed-area table (H+1,W+1) of the masks' union."""
    if not masks:
        return np.zeros((1, 1))
    union = np.logical_or.reduce(masks)
    return np.asarray(np.pad(union, ((1, 0), (1, 0))).astype(np.float64).cumsum(0).cumsum(1))


def _share(table: Array, box: Box) -> float:
    """Return the share of a box that objects cover."""
    if table.size == 1:
        return 0.0
    h, w = table.shape
    x0, x1 = (int(np.clip(round(v), 0, w - 1)) for v in (box.x, box.x + box.w))
    y0, y1 = (int(np.clip(round(v), 0, h - 1)) for v in (box.y, box.y + box.h))
    inside = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    return float(inside) / max((x1 - x0) * (y1 - y0), 1)
