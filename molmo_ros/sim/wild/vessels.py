"""Vessels and other bodies made on a lathe, each drawn at random."""

from __future__ import annotations

import numpy as np

from molmo_ros.sim import mesh
from molmo_ros.sim.mesh import Mesh
from molmo_ros.sim.wild.bodies import revolved, rod


def _cup_profile(
    rng: np.random.Generator, r: float, h: float, wall: float
) -> tuple[list[tuple[float, float]], list[int]]:
    """A hollow vessel, narrower or wider at the foot; the inside is part 1."""
    foot, belly = rng.uniform(0.55, 1.0) * r, rng.uniform(-0.12, 0.2) * r
    t = np.linspace(0, 1, 7)
    outer = foot + (r - foot) * t ** rng.uniform(0.4, 1.6) + belly * np.sin(np.pi * t)
    floor = rng.uniform(1.0, 2.5) * wall
    inner_z = floor + (h - floor) * t
    inner = np.interp(inner_z, h * t, outer) - wall
    profile = [
        (0.0, 0.0),
        *zip(outer, h * t, strict=True),
        *zip(inner[::-1], inner_z[::-1], strict=True),
        (0.0, floor),
    ]
    return [(float(a), float(b)) for a, b in profile], [0] * 7 + [0] + [1] * 7


def cup(rng: np.random.Generator) -> Mesh:
    profile, parts = _cup_profile(
        rng, rng.uniform(0.028, 0.055), rng.uniform(0.05, 0.15), rng.uniform(0.0018, 0.005)
    )
    return revolved(profile, parts)


def handled(rng: np.random.Generator) -> Mesh:
    r, h = rng.uniform(0.034, 0.05), rng.uniform(0.07, 0.12)
    profile, parts = _cup_profile(rng, r, h, rng.uniform(0.003, 0.006))
    cup = revolved(profile, parts)
    reach, half, thick = rng.uniform(0.02, 0.035), rng.uniform(0.22, 0.36) * h, rng.uniform(0.004, 0.007)
    a = np.linspace(-np.pi / 2, np.pi / 2, 11)
    middle = rng.uniform(0.48, 0.6) * h
    near = np.interp(middle + half * np.sin(a), [p[1] for p in profile[1:8]], [p[0] for p in profile[1:8]])
    path = np.c_[
        near - thick / 2 + reach * np.cos(a) ** rng.uniform(0.4, 1),
        np.zeros_like(a),
        middle + half * np.sin(a),
    ]
    return mesh.join(cup, mesh.tube(path, np.full(len(a), thick), np.zeros(len(a) - 1), 10))


def dish(rng: np.random.Generator) -> Mesh:
    """From a soup bowl to a plate."""
    r, h, wall = rng.uniform(0.055, 0.13), rng.uniform(0.018, 0.085), rng.uniform(0.002, 0.006)
    foot, bend = rng.uniform(0.35, 0.75) * r, rng.uniform(0.35, 1.1)
    t = np.linspace(0, 1, 7)
    radius, z = foot + (r - foot) * t**bend, h * t ** rng.uniform(1.0, 1.9)
    lift = wall * (1 - 0.4 * t)
    inner = [(max(a - 0.6 * wall, 0.2 * r), b + c) for a, b, c in zip(radius, z, lift, strict=True)][::-1]
    profile = [(0.0, 0.0), *zip(radius, z, strict=True), *inner, (0.0, inner[-1][1])]
    return revolved(profile, [0] * 7 + [0] + [1] * 7)


def flask(rng: np.random.Generator) -> Mesh:
    """Bottles, jars, sprays, cans with a cap: full bodies of revolution with a neck."""
    r, h = rng.uniform(0.02, 0.05), rng.uniform(0.09, 0.28)
    neck, shoulder = rng.uniform(0.25, 0.95) * r, rng.uniform(0.45, 0.88) * h
    waist = rng.uniform(0.75, 1.05)
    cap = min(h - 0.008, shoulder + rng.uniform(0.1, 0.7) * (h - shoulder))
    wide = neck * rng.uniform(1.02, 1.25)
    body = [(0.0, 0.0), (0.93 * r, 0.0), (r, 0.05 * h), (r * waist, 0.45 * shoulder), (r, 0.92 * shoulder)]
    curve = [
        (neck + (r - neck) * np.cos(a), shoulder + (cap - shoulder) * 0.8 * np.sin(a))
        for a in (0.0, 0.5, 1.0, 1.5)
    ]
    top = [(neck, cap), (wide, cap + 1e-4), (wide * rng.uniform(0.75, 1.0), h), (0.0, h)]
    profile = [*body, *curve, *top]
    return revolved(profile, [0] * (len(profile) - 4) + [1] * 3)


def can(rng: np.random.Generator) -> Mesh:
    r, h, lip = rng.uniform(0.025, 0.06), rng.uniform(0.03, 0.22), rng.uniform(0.001, 0.004)
    deep = rng.uniform(0.001, 0.005)
    profile = [
        (0, 0),
        (r - lip, 0),
        (r, lip),
        (r, h - lip),
        (r - lip, h),
        (r - 2 * lip, h),
        (r - 2 * lip, h - deep),
        (0, h - deep),
    ]
    return revolved(profile, [1, 1, 0, 1, 1, 1, 1])


def pin(rng: np.random.Generator) -> Mesh:
    """Any profile at all: vases, skittles, spinning tops, lamps, fruits."""
    t = np.linspace(0, 1, 12)
    radius = rng.uniform(0.3, 1) + sum(
        rng.normal(0, 0.5 / k) * np.sin(np.pi * k * t + rng.uniform(0, 6)) for k in (1, 2, 3)
    )
    radius = np.clip(np.abs(radius), 0.15, 1.6) * rng.uniform(0.015, 0.05)
    h = rng.uniform(0.05, 0.2)
    profile = [(0.0, 0.0), *zip(radius, h * t, strict=True), (0.0, h)]
    cut = int(rng.integers(3, 12))
    return revolved(profile, [int(i >= cut) for i in range(len(profile) - 1)])


def ring(rng: np.random.Generator) -> Mesh:
    """Tape rolls, washers, bangles, tyres."""
    r, h = rng.uniform(0.02, 0.07), rng.uniform(0.008, 0.06)
    hole = r * rng.uniform(0.3, 0.85)
    soft = min(0.3 * (r - hole), 0.3 * h)
    profile = [(hole, 0), (r - soft, 0), (r, soft), (r, h - soft), (r - soft, h), (hole, h), (hole, 0)]
    return revolved(profile, [0, 0, 0, 0, 0, 1])


def pot(rng: np.random.Generator) -> Mesh:
    """A pan or pot with one long or two short handles."""
    r, h = rng.uniform(0.05, 0.1), rng.uniform(0.03, 0.09)
    profile, parts = _cup_profile(rng, r, h, 0.003)
    z, length = 0.75 * h, rng.choice([rng.uniform(0.08, 0.15), rng.uniform(0.02, 0.04)])
    reach = r + length
    sides = (1,) if length > 0.05 else (1, -1)
    handles = [
        rod(np.array([s * 0.93 * r, 0, z]), np.array([s * reach, 0, z]), 0.007, 0.009, part=2) for s in sides
    ]
    return mesh.join(revolved(profile, parts), *handles)
