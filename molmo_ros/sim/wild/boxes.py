"""Boxes, bricks, trays, superquadrics and soft heaps, each drawn at random."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim import mesh
from molmo_ros.sim.mesh import Mesh
from molmo_ros.sim.wild.bodies import bar, lump, revolved, shift, superquadric


def carton(rng: np.random.Generator) -> Mesh:
    """A box of any proportions: cereal, tea, books, blocks."""
    sides = np.exp(rng.uniform(np.log(0.018), np.log(0.24), 3))
    return mesh.box((float(sides[0]), float(sides[1]), float(sides[2])))


def parcel(rng: np.random.Generator) -> Mesh:
    sides = rng.uniform(0.05, 0.2, 3)
    return mesh.box((float(sides[0]), float(sides[1]), float(sides[2] * 0.7)), float(rng.uniform(0.05, 0.5)))


def soft_box(rng: np.random.Generator) -> Mesh:
    """Rounded boxes, soaps, tins, bars; a superquadric with small exponents."""
    half = np.exp(rng.uniform(np.log(0.012), np.log(0.09), 3))
    return superquadric(half, rng.uniform(0.1, 0.45), rng.uniform(0.1, 0.7)).moved(shift(0, 0, half[2]))


def quadric(rng: np.random.Generator) -> Mesh:
    half = np.exp(rng.uniform(np.log(0.015), np.log(0.07), 3))
    return superquadric(half, rng.uniform(0.3, 1.6), rng.uniform(0.2, 1.8)).moved(shift(0, 0, half[2]))


def lidded(rng: np.random.Generator) -> Mesh:
    """A box with a lid that stands out a little, as for food."""
    x, y, z = rng.uniform(0.06, 0.24), rng.uniform(0.05, 0.13), rng.uniform(0.03, 0.12)
    e = rng.uniform(0.1, 0.35)
    tub = superquadric(np.array([x, y, z]) / 2, 0.12, e).moved(shift(0, 0, z / 2))
    lid_h = rng.uniform(0.008, 0.03)
    lid = superquadric(np.array([x + 0.008, y + 0.008, lid_h]) / 2, 0.15, e, part=1).moved(shift(0, 0, z))
    return mesh.join(tub, lid)


def brick(rng: np.random.Generator) -> Mesh:
    """A toy brick with knobs."""
    nx, ny = int(rng.integers(1, 5)), int(rng.integers(1, 3))
    pitch = rng.uniform(0.016, 0.045)
    h = pitch * rng.uniform(0.5, 1.3)
    body = mesh.box((nx * pitch, ny * pitch, h))
    r, knob = 0.33 * pitch, rng.uniform(0.2, 0.55) * pitch
    profile = [(r, 0.0), (r, 0.6 * knob), (0.75 * r, 0.9 * knob), (0.0, knob)]
    if rng.random() < 0.5:
        profile = [(r, 0.0), (r, knob), (0.0, knob)]
    knobs = [
        revolved([(0.0, 0.0), *profile], [0] * len(profile), 16).moved(
            shift((i - (nx - 1) / 2) * pitch, (j - (ny - 1) / 2) * pitch, h)
        )
        for i in range(nx)
        for j in range(ny)
    ]
    return mesh.join(body, *knobs)


def tray(rng: np.random.Generator) -> Mesh:
    """An open box: trays, drawers, punnets."""
    size = np.array([rng.uniform(0.08, 0.26), rng.uniform(0.06, 0.18), rng.uniform(0.02, 0.09)])
    return open_box(size, rng.uniform(0.002, 0.008))


def open_box(size: Array, wall: float) -> Mesh:
    """A bin with outer extents size (3,) m, standing on z = 0; the inside is part 1."""
    x, y, z = (float(s) for s in size)
    floor = bar((x, y, wall), shift(0, 0, wall / 2), part=1)
    walls = [bar((wall, y, z), shift(s * (x - wall) / 2, 0, z / 2)) for s in (-1, 1)]
    walls += [bar((x - 2 * wall, wall, z), shift(0, s * (y - wall) / 2, z / 2)) for s in (-1, 1)]
    return mesh.join(floor, *walls)


def bag(rng: np.random.Generator) -> Mesh:
    size = np.array([rng.uniform(0.06, 0.22), rng.uniform(0.05, 0.16), rng.uniform(0.025, 0.12)])
    return lump(rng, size, rng.uniform(0.03, 0.12))


def cloth(rng: np.random.Generator) -> Mesh:
    size = np.array([rng.uniform(0.1, 0.28), rng.uniform(0.08, 0.25), rng.uniform(0.015, 0.07)])
    return lump(rng, size, rng.uniform(0.12, 0.3))
