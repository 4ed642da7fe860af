"""What the surface of a thing looks like: a palette, a texture from the library, a gloss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim.textures import PRINT, texture

DARK, SHINY, TRANSPARENT = 1, 2, 4  # flags of Render.material
DARK_ALBEDO, SHINY_GLOSS = 0.05, 0.45
_OTHER_AXES = np.array([[1, 2], [0, 2], [0, 1]])


@dataclass(frozen=True)
class Paint:
    """One coat of paint on a part of a thing.

    ramp: (3,3) linear albedo; a texture's values from 0 to 1 run through these three colours.
    texture, index: an individual of the library (textures.py); "print" brings its own colours.
    period: (3,) m along the thing's axes after which the texture repeats; origin: (3,) m, where it starts.
    around: wrap it around the z axis, as a label around a can, instead of projecting it along the axes.
    gloss: 0 matt to 1, strength of highlights.
    """

    ramp: Array
    texture: str = "plain"
    index: int = 0
    period: Array | None = None
    origin: Array | None = None
    around: bool = False
    gloss: float = 0.1


@dataclass(frozen=True)
class Skin:
    """A paint for each part of a mesh (the last one for all further parts); transparent: clear as glass."""

    paints: tuple[Paint, ...]
    transparent: bool = False

    def paint(self, part: int) -> Paint:
        """Paint of a part index."""
        return self.paints[min(part, len(self.paints) - 1)]


def albedo(paint: Paint, points: Array, normals: Array) -> Array:
    """Linear albedo (N,3) at points (N,3) m with unit normals (N,3), both in the thing's own frame."""
    if paint.texture == "plain":
        return np.broadcast_to(paint.ramp[1].astype(np.float32), points.shape)
    image = texture(paint.texture, paint.index)
    uv = _uv(paint, points, normals)
    size = image.shape[0]
    cell = (uv * size).astype(np.int64) % size
    value = image[cell[:, 1], cell[:, 0]].astype(np.float32) / 255
    if paint.texture == PRINT:
        return np.asarray(value**2 * paint.ramp[2].astype(np.float32))  # near to the sRGB curve
    ramp = paint.ramp.astype(np.float32)
    low, high = np.clip(2 * value, 0, 1)[:, None], np.clip(2 * value - 1, 0, 1)[:, None]
    return np.asarray(ramp[0] + (ramp[1] - ramp[0]) * low + (ramp[2] - ramp[1]) * high)


def material_flags(paint: Paint, transparent: bool, color: Array) -> np.ndarray:
    """Flags (N,) uint8 of surface points with linear albedo color (N,3)."""
    flags = np.where(color.max(axis=1) < DARK_ALBEDO, DARK, 0)
    flags |= SHINY if paint.gloss >= SHINY_GLOSS else 0
    return (flags | (TRANSPARENT if transparent else 0)).astype(np.uint8)


def _uv(paint: Paint, points: Array, normals: Array) -> Array:
    """Texture coordinates (N,2), in periods."""
    period = np.full(3, 0.1) if paint.period is None else paint.period
    local = points if paint.origin is None else points - paint.origin
    axis = np.abs(normals).argmax(axis=1)
    if paint.around:
        turn = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi)
        side = np.stack([turn * np.maximum(np.round(0.3 / period[0]), 1), 1 - local[:, 2] / period[2]], 1)
        ends = local[:, :2] / period[:2]
        return np.asarray(np.where((axis == 2)[:, None], ends, side))
    scaled = local / period
    uv = np.take_along_axis(scaled, _OTHER_AXES[axis], axis=1) + 0.37 * axis[:, None] * [1, 0]
    uv[:, 1] = np.where(axis == 2, uv[:, 1], 1 - uv[:, 1])  # rows run down
    return np.asarray(uv)
