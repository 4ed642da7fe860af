"""A low thing as a prism: its outline halfway up, with upright sides down to the support.

Depth cameras smear an edge over 5 to 15 mm, so that a pen or a phone is measured as a low dome, of which no
side can be gripped. Things this low have upright or round sides, and a hand grips both where they are widest.
"""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array, Mask
from molmo_ros.perception.outline import level_normals, outermost

FLOOR_M = 0.002  # sides end this far above the support
ROWS = 4  # of points on a side, at least


def top_of(points: Array) -> float:
    """Return the height (m) of points (N,3) of a thing above its support, z = 0, ignoring stray ones."""
    return float(np.quantile(points[:, 2], 0.95))


def prism(points: Array, angle: float, spacing: float) -> tuple[Mask, Array, Array]:
    """Return which points (N,3) m lie on top of the prism, and points (S,3) m of its sides with normals.

    z = 0 is the support; angle (rad) of one side of the rectangle around the thing; spacing m of the points.
    """
    top = top_of(points)
    kept = points[:, 2] > top / 2
    sides = [_side(points[kept], a, spacing, top) for a in angle + np.arange(4) * np.pi / 2]
    below, normals = (np.concatenate(parts) for parts in zip(*sides, strict=True))
    return kept, below, normals


def _side(points: Array, angle: float, spacing: float, top: float) -> tuple[Array, Array]:
    """Return points (S,3) below the outermost ones in a level direction, and their level normals (S,3)."""
    outward = np.array([np.cos(angle), np.sin(angle), 0.0])
    along = np.array([-outward[1], outward[0], 0.0])
    edge = outermost(points, outward, along, spacing, lowest=False)
    if len(edge) < 3:
        return np.zeros((0, 3)), np.zeros((0, 3))
    n = level_normals(edge, outward, along)
    rows = np.linspace(FLOOR_M, max(top, 2 * FLOOR_M), max(ROWS, int(top / spacing) + 1))
    below = np.repeat(edge[:, None], len(rows), axis=1)
    below[..., 2] = rows
    return below.reshape(-1, 3), np.repeat(n, len(rows), axis=0)
