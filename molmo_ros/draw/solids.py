"""Meshes of what is drawn as a solid: boxes, cylinders, cones, and the gripper made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Array
from molmo_ros.draw.style import Color
from molmo_ros.transforms import unit

Faces = npt.NDArray[np.int64]
METAL: Color = (206, 211, 218)
SHELL: Color = (236, 238, 241)
PAD: Color = (70, 76, 86)
_BOX_FACES = np.array([
    [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
    [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3],
])  # fmt: skip
BOX_EDGES = np.array(
    [[0, 1], [2, 3], [4, 5], [6, 7], [0, 2], [1, 3], [4, 6], [5, 7], [0, 4], [1, 5], [2, 6], [3, 7]]
)


@dataclass(frozen=True)
class Solid:
    """A mesh of one colour: vertices (V,3) m, faces (F,3)."""

    vertices: Array
    faces: Faces
    color: Color

    def moved(self, T: Array) -> Solid:
        """Return the solid after the rigid transform T (4,4)."""
        return Solid(self.vertices @ T[:3, :3].T + T[:3, 3], self.faces, self.color)


def box_corners(size: Array) -> Array:
    """Return the corners (8,3) of a box about the origin; BOX_EDGES joins them."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    return np.asarray(signs * np.asarray(size) / 2)


def box(lo: tuple[float, float, float], hi: tuple[float, float, float], color: Color) -> Solid:
    """Return the box between two corners."""
    low, high = np.array(lo), np.array(hi)
    return Solid(box_corners(high - low) + (low + high) / 2, _BOX_FACES, color)


def taper(
    size_lo: tuple[float, float], size_hi: tuple[float, float], z: tuple[float, float], color: Color
) -> Solid:
    """Return a block about the z axis whose cross-section goes from size_lo (x, y) to size_hi over z."""
    block = box((-0.5, -0.5, z[0]), (0.5, 0.5, z[1]), color)
    low = block.vertices[:, 2:] < (z[0] + z[1]) / 2
    scale = np.where(low, np.array(size_lo), np.array(size_hi))
    return Solid(
        np.concatenate([block.vertices[:, :2] * scale, block.vertices[:, 2:]], axis=1), block.faces, color
    )


def cone(start: Array, end: Array, radius: float, end_radius: float, color: Color, sides: int = 24) -> Solid:
    """Return a closed cylinder or cone from start to end (3,) m."""
    axis = unit(end - start)
    side = unit(np.cross(axis, np.array([1.0, 0, 0]) if abs(axis[0]) < 0.8 else np.array([0, 1.0, 0])))
    t = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    ring = np.cos(t)[:, None] * side + np.sin(t)[:, None] * np.cross(axis, side)
    vertices = np.concatenate([start + radius * ring, end + end_radius * ring, [start], [end]])
    i = np.arange(sides)
    j = (i + 1) % sides
    walls = np.concatenate([np.stack([i, j, sides + i], 1), np.stack([j, sides + j, sides + i], 1)])
    caps = np.concatenate(
        [np.stack([i, j, 0 * i + 2 * sides], 1), np.stack([sides + i, sides + j, 0 * i + 2 * sides + 1], 1)]
    )
    return Solid(vertices, np.concatenate([walls, caps]), color)


def arrow(start: Array, end: Array, radius: float, color: Color) -> list[Solid]:
    """Return a solid arrow from start to end (3,) m."""
    head = min(6 * radius, 0.6 * float(np.linalg.norm(end - start)))
    neck = end - unit(end - start) * head
    return [cone(start, neck, radius, radius, color), cone(neck, end, 2.6 * radius, 0.0, color)]
