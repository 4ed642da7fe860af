"""What the surface of a thing looks like: a palette, a texture from the library, a gloss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim.textures import PRINT, texture

DARK, SHINY, TRANSPARENT = 1, 2, 4  # flags of Render.material
DARK_ALBEDO, SHINY_GLOSS = 0.05, 0.45
_LINEAR = ((np.arange(256) / 255) ** 2.2).astype(np.float32)


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


def albedo(paint: Paint, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Linear albedo (N,3) at points (N,3) m with unit normals (N,3), both in the thing's own frame."""
    if paint.texture == "plain":
        return np.broadcast_to(paint.ramp[1].astype(np.float32), points.shape)
    image = texture(paint.texture, paint.index)
    cell = np.floor(_uv(paint, points, normals) * np.float32(image.shape[0])).astype(np.int32)
    cell %= image.shape[0]
    value = image[cell[:, 1], cell[:, 0]]
    if paint.texture == PRINT:
        return np.asarray(_LINEAR[value] * paint.ramp[2].astype(np.float32))
    return np.asarray(_ramp_table(paint)[value])


def _ramp_table(paint: Paint) -> np.ndarray:
    """Albedo (256,3) of the values of a texture."""
    value = np.arange(256) / 127.5
    low, high = np.clip(value, 0, 1)[:, None], np.clip(value - 1, 0, 1)[:, None]
    first, middle, last = paint.ramp
    return np.asarray((first + (middle - first) * low + (last - middle) * high).astype(np.float32))


def material_flags(paint: Paint, transparent: bool, color: np.ndarray) -> np.ndarray:
    """Flags (N,) uint8 of surface points with linear albedo color (N,3)."""
    flags = np.where(color.max(axis=1) < DARK_ALBEDO, DARK, 0)
    flags |= SHINY if paint.gloss >= SHINY_GLOSS else 0
    return (flags | (TRANSPARENT if transparent else 0)).astype(np.uint8)


def _uv(paint: Paint, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Texture coordinates (N,2), in periods."""
    period = np.full(3, 0.1, np.float32) if paint.period is None else paint.period.astype(np.float32)
    local = points if paint.origin is None else points - paint.origin.astype(np.float32)
    local = local / period
    upright = np.abs(normals[:, 2])
    if paint.around:
        repeats = np.float32(max(round(0.3 / float(period[0])), 1) / (2 * np.pi))
        u = np.arctan2(points[:, 1], points[:, 0]) * repeats
        flat = upright > 0.7
        return np.stack(
            [np.where(flat, local[:, 0], u), np.where(flat, -local[:, 1], 1 - local[:, 2])], axis=1
        )
    along_x = np.abs(normals[:, 0]) > np.abs(normals[:, 1])
    flat = upright > np.maximum(np.abs(normals[:, 0]), np.abs(normals[:, 1]))
    mirror = np.where(along_x, np.sign(normals[:, 0]), -np.sign(normals[:, 1]))  # print reads from outside
    u = np.where(flat, local[:, 0], mirror * np.where(along_x, local[:, 1], local[:, 0] + np.float32(0.37)))
    return np.stack([u, np.where(flat, np.float32(0.5) - local[:, 1], 1 - local[:, 2])], axis=1)
