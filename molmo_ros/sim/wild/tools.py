"""Tools, cables and other unions of rods and blocks, each drawn at random."""

from __future__ import annotations

import numpy as np

from molmo_ros.sim import mesh
from molmo_ros.sim.mesh import Mesh
from molmo_ros.sim.wild.bodies import as_part, bar, revolved, rod, shift, superquadric, turned


def drill(rng: np.random.Generator) -> Mesh:
    """A pistol shape: motor, chuck, handle, battery."""
    r, length = rng.uniform(0.02, 0.032), rng.uniform(0.1, 0.16)
    grip, base = (
        rng.uniform(0.09, 0.14),
        np.array([rng.uniform(0.05, 0.1), rng.uniform(0.04, 0.06), rng.uniform(0.02, 0.04)]),
    )
    height = base[2] + grip
    along = np.array([1.0, 0, 0])
    start = np.array([-0.4 * length, 0, height])
    motor = rod(start, start + length * along, r, r * rng.uniform(0.8, 1.0))
    chuck = rod(
        start + length * along, start + (length + rng.uniform(0.03, 0.06)) * along, 0.7 * r, 0.35 * r, part=1
    )
    handle = rod(
        np.array([0.0, 0, 0.5 * base[2]]),
        np.array([rng.uniform(-0.02, 0.01), 0, height]),
        rng.uniform(0.014, 0.02),
        part=int(rng.integers(2)),
    )
    foot = mesh.box((float(base[0]), float(base[1]), float(base[2])))
    return mesh.join(motor, chuck, handle, as_part(foot, int(rng.integers(2))))


def hammer(rng: np.random.Generator) -> Mesh:
    """T and L shapes that lie: hammers, brushes, taps, squeegees."""
    length, r = rng.uniform(0.1, 0.26), rng.uniform(0.006, 0.014)
    head = rng.uniform(0.03, 0.12)
    size = (rng.uniform(0.014, 0.035), head, rng.uniform(0.014, 0.035))
    z = max(r, size[2] / 2)
    shaft = rod(np.array([0.0, 0, z]), np.array([length, 0, z]), r, r * rng.uniform(0.6, 1.0))
    off = rng.choice([0.0, 0.5 * head]) * rng.choice([-1, 1])
    return mesh.join(shaft, bar(size, shift(length, off, z), part=1))


def tool(rng: np.random.Generator) -> Mesh:
    """Two crossed arms that lie: pliers, scissors, tongs, wrenches, spatulas."""
    length, r = rng.uniform(0.09, 0.2), rng.uniform(0.004, 0.01)
    opening = rng.uniform(0.0, 0.6)
    pieces = []
    for side in (-1, 1):
        T = turned(2, side * opening / 2)
        x = np.linspace(-0.6 * length, 0.4 * length, 7)
        bow = side * rng.uniform(0.1, 0.25) * length * np.clip(-x / length, 0, 1) ** 1.5
        path = np.c_[x, bow, np.full_like(x, r)]
        pieces.append(mesh.tube(path, np.linspace(1.2, 0.5, 7) * r, (x[:-1] > 0).astype(float), 10).moved(T))
    return mesh.join(*pieces)


def driver(rng: np.random.Generator) -> Mesh:
    """A grip and a thin shaft: screwdrivers, brushes, torches, cutlery, ladles; it lies."""
    grip, r = rng.uniform(0.06, 0.12), rng.uniform(0.008, 0.02)
    shaft, thin = rng.uniform(0.04, 0.16), rng.uniform(0.0025, 0.007)
    waist = rng.uniform(0.6, 1.0)
    profile = [
        (0, 0),
        (0.8 * r, 0),
        (r, 0.15 * grip),
        (waist * r, 0.6 * grip),
        (0.9 * r, 0.9 * grip),
        (thin, grip),
        (thin, grip + shaft),
        (0, grip + shaft),
    ]
    whole = revolved(profile, [0, 0, 0, 0, 0, 1, 1], 18)
    return whole.moved(shift(0, 0, r) @ turned(1, np.pi / 2))


def cable(rng: np.random.Generator) -> Mesh:
    """A cable, hose or rope that lies in bows, or in a coil."""
    r, turns = rng.uniform(0.0025, 0.009), rng.uniform(0.5, 1.9)
    t = np.linspace(0, 1, 44)
    if rng.random() < 0.4:
        radius = rng.uniform(0.03, 0.08) * (1 + 0.35 * t)
        path = np.c_[
            radius * np.cos(2 * np.pi * turns * t),
            radius * np.sin(2 * np.pi * turns * t),
            r + 0.4 * r * turns * t,
        ]
    else:
        heading = np.cumsum(np.interp(t, np.linspace(0, 1, 6), rng.normal(0, 4.5, 6))) / 44 * 3
        step = rng.uniform(0.12, 0.4) / 44
        path = np.c_[np.cumsum(np.cos(heading)) * step, np.cumsum(np.sin(heading)) * step, np.full(44, r)]
        path[:, :2] -= path[:, :2].mean(axis=0)
    ends = np.zeros(43)
    ends[:3] = ends[-3:] = 1
    radii = np.full(44, r)
    radii[:3] = radii[-3:] = r * rng.uniform(1, 1.8)
    path[:, 2] += radii.max() - r
    return mesh.tube(path, radii, ends, 8)


def union(rng: np.random.Generator) -> Mesh:
    """Two to four simple bodies grown together."""
    pieces: list[Mesh] = []
    at = np.zeros(3)
    for k in range(int(rng.integers(2, 5))):
        half = np.exp(rng.uniform(np.log(0.01), np.log(0.045), 3))
        body = superquadric(half, rng.choice([0.12, 1.0, 1.0]), rng.choice([0.12, 1.0]), part=k % 2)
        pose = (
            shift(*at)
            @ turned(2, rng.uniform(0, np.pi))
            @ turned(0, rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)]))
        )
        pieces.append(body.moved(pose))
        way = rng.normal(size=3)
        at = at + way / np.linalg.norm(way) * half.mean() * rng.uniform(0.7, 1.2)
    whole = mesh.join(*pieces)
    return whole.moved(shift(0, 0, -float(whole.vertices[:, 2].min())))
