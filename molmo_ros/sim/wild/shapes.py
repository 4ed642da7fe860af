"""Shapes that nobody tuned anything on: each kind an endless family, an individual drawn from its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim import mesh, more_objects, objects
from molmo_ros.sim.mesh import Mesh
from molmo_ros.sim.wild.bodies import (
    as_part,
    bar,
    lump,
    revolved,
    rod,
    scaled,
    shift,
    superquadric,
    turned,
)
from molmo_ros.sim.wild.stable import stable_poses

LIMITS_M = (0.02, 0.30)  # of the longest side
_KEPT = 2500
_POINT_AREA_M2 = 2.5e-5


@dataclass(frozen=True)
class Shape:
    """kind; mesh in its own frame (z up, standing on z = 0); poses (P,4,4) in which it rests on a table, likely ones first.

    shares: (P,) how likely each is; points: (N,3) m, all over its surface; hollow: things can lie in it when it
    stands as made; round: made on a lathe.
    """

    kind: str
    mesh: Mesh
    poses: Array
    shares: Array
    points: Array
    hollow: bool
    round: bool

    def grown(self, factor: float) -> Shape:
        """The same, larger by a factor."""
        poses = self.poses.copy()
        poses[:, :3, 3] *= factor
        return replace(self, mesh=scaled(self.mesh, factor), poses=poses, points=self.points * factor)


@lru_cache(maxsize=_KEPT)
def shape(kind: str, index: int) -> Shape:
    """The individual `index` of a kind."""
    rng = np.random.default_rng([index, *kind.encode()])
    made = _MAKERS[kind](rng)
    grow = float(np.exp(rng.normal(0, 0.22)))
    longest = float(np.ptp(made.vertices, axis=0).max())
    made = scaled(made, float(np.clip(grow, LIMITS_M[0] / longest, LIMITS_M[1] / longest)))
    poses, shares = stable_poses(made)
    return Shape(kind, made, poses, shares, _surface(made, rng), kind in HOLLOW, kind in ROUND)


def _surface(m: Mesh, rng: np.random.Generator) -> Array:
    """Points (N,3) m spread evenly over a mesh."""
    corners = m.vertices[m.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    count = int(np.clip(area.sum() / 2 / _POINT_AREA_M2, 150, 1500))
    face = rng.choice(len(area), count, p=area / area.sum())
    a, b = np.sqrt(rng.random(count)), rng.random(count)
    return np.einsum("nc,ncd->nd", np.stack([1 - a, a * (1 - b), a * b], axis=1), corners[face])


def _cup_profile(rng: np.random.Generator, r: float, h: float, wall: float) -> tuple[list[tuple[float, float]], list[int]]:
    """A hollow vessel, narrower or wider at the foot; the inside is part 1."""
    foot, belly = rng.uniform(0.55, 1.0) * r, rng.uniform(-0.12, 0.2) * r
    t = np.linspace(0, 1, 7)
    outer = foot + (r - foot) * t ** rng.uniform(0.4, 1.6) + belly * np.sin(np.pi * t)
    floor = rng.uniform(1.0, 2.5) * wall
    inner_z = floor + (h - floor) * t
    inner = np.interp(inner_z, h * t, outer) - wall
    profile = [(0.0, 0.0), *zip(outer, h * t, strict=True), *zip(inner[::-1], inner_z[::-1], strict=True), (0.0, floor)]
    return [(float(a), float(b)) for a, b in profile], [0] * 7 + [0] + [1] * 7


def _cup(rng: np.random.Generator) -> Mesh:
    profile, parts = _cup_profile(rng, rng.uniform(0.028, 0.055), rng.uniform(0.05, 0.15), rng.uniform(0.0018, 0.005))
    return revolved(profile, parts)


def _handled(rng: np.random.Generator) -> Mesh:
    r, h = rng.uniform(0.034, 0.05), rng.uniform(0.07, 0.12)
    profile, parts = _cup_profile(rng, r, h, rng.uniform(0.003, 0.006))
    cup = revolved(profile, parts)
    reach, half, thick = rng.uniform(0.02, 0.035), rng.uniform(0.22, 0.36) * h, rng.uniform(0.004, 0.007)
    a = np.linspace(-np.pi / 2, np.pi / 2, 11)
    middle = rng.uniform(0.48, 0.6) * h
    near = np.interp(middle + half * np.sin(a), [p[1] for p in profile[1:8]], [p[0] for p in profile[1:8]])
    path = np.c_[near - thick / 2 + reach * np.cos(a) ** rng.uniform(0.4, 1), np.zeros_like(a), middle + half * np.sin(a)]
    return mesh.join(cup, mesh.tube(path, np.full(len(a), thick), np.zeros(len(a) - 1), 10))


def _dish(rng: np.random.Generator) -> Mesh:
    """From a soup bowl to a plate."""
    r, h, wall = rng.uniform(0.055, 0.13), rng.uniform(0.018, 0.085), rng.uniform(0.002, 0.006)
    foot, bend = rng.uniform(0.35, 0.75) * r, rng.uniform(0.35, 1.1)
    t = np.linspace(0, 1, 7)
    radius, z = foot + (r - foot) * t**bend, h * t ** rng.uniform(1.0, 1.9)
    lift = wall * (1 - 0.4 * t)
    inner = [(max(a - 0.6 * wall, 0.2 * r), b + c) for a, b, c in zip(radius, z, lift, strict=True)][::-1]
    profile = [(0.0, 0.0), *zip(radius, z, strict=True), *inner, (0.0, inner[-1][1])]
    return revolved(profile, [0] * 7 + [0] + [1] * 7)


def _flask(rng: np.random.Generator) -> Mesh:
    """Bottles, jars, sprays, cans with a cap: full bodies of revolution with a neck."""
    r, h = rng.uniform(0.02, 0.05), rng.uniform(0.09, 0.28)
    neck, shoulder = rng.uniform(0.25, 0.95) * r, rng.uniform(0.45, 0.88) * h
    waist = rng.uniform(0.75, 1.05)
    cap = min(h - 0.008, shoulder + rng.uniform(0.1, 0.7) * (h - shoulder))
    wide = neck * rng.uniform(1.02, 1.25)
    body = [(0.0, 0.0), (0.93 * r, 0.0), (r, 0.05 * h), (r * waist, 0.45 * shoulder), (r, 0.92 * shoulder)]
    curve = [(neck + (r - neck) * np.cos(a), shoulder + (cap - shoulder) * 0.8 * np.sin(a)) for a in (0.0, 0.5, 1.0, 1.5)]
    top = [(neck, cap), (wide, cap + 1e-4), (wide * rng.uniform(0.75, 1.0), h), (0.0, h)]
    profile = [*body, *curve, *top]
    return revolved(profile, [0] * (len(profile) - 4) + [1] * 3)


def _can(rng: np.random.Generator) -> Mesh:
    r, h, lip = rng.uniform(0.025, 0.06), rng.uniform(0.03, 0.22), rng.uniform(0.001, 0.004)
    deep = rng.uniform(0.001, 0.005)
    profile = [(0, 0), (r - lip, 0), (r, lip), (r, h - lip), (r - lip, h), (r - 2 * lip, h), (r - 2 * lip, h - deep), (0, h - deep)]
    return revolved(profile, [1, 1, 0, 1, 1, 1, 1])


def _pin(rng: np.random.Generator) -> Mesh:
    """Any profile at all: vases, skittles, spinning tops, lamps, fruits."""
    t = np.linspace(0, 1, 12)
    radius = rng.uniform(0.3, 1) + sum(rng.normal(0, 0.5 / k) * np.sin(np.pi * k * t + rng.uniform(0, 6)) for k in (1, 2, 3))
    radius = np.clip(np.abs(radius), 0.15, 1.6) * rng.uniform(0.015, 0.05)
    h = rng.uniform(0.05, 0.2)
    profile = [(0.0, 0.0), *zip(radius, h * t, strict=True), (0.0, h)]
    cut = int(rng.integers(3, 12))
    return revolved(profile, [int(i >= cut) for i in range(len(profile) - 1)])


def _carton(rng: np.random.Generator) -> Mesh:
    """A box of any proportions: cereal, tea, books, blocks."""
    sides = np.exp(rng.uniform(np.log(0.018), np.log(0.24), 3))
    return mesh.box((float(sides[0]), float(sides[1]), float(sides[2])))


def _parcel(rng: np.random.Generator) -> Mesh:
    sides = rng.uniform(0.05, 0.2, 3)
    return mesh.box((float(sides[0]), float(sides[1]), float(sides[2] * 0.7)), float(rng.uniform(0.05, 0.5)))


def _soft_box(rng: np.random.Generator) -> Mesh:
    """Rounded boxes, soaps, tins, bars; a superquadric with small exponents."""
    half = np.exp(rng.uniform(np.log(0.012), np.log(0.09), 3))
    return superquadric(half, rng.uniform(0.1, 0.45), rng.uniform(0.1, 0.7)).moved(shift(0, 0, half[2]))


def _quadric(rng: np.random.Generator) -> Mesh:
    half = np.exp(rng.uniform(np.log(0.015), np.log(0.07), 3))
    return superquadric(half, rng.uniform(0.3, 1.6), rng.uniform(0.2, 1.8)).moved(shift(0, 0, half[2]))


def _lidded(rng: np.random.Generator) -> Mesh:
    """A box with a lid that stands out a little, as for food."""
    x, y, z = rng.uniform(0.06, 0.24), rng.uniform(0.05, 0.13), rng.uniform(0.03, 0.12)
    e = rng.uniform(0.1, 0.35)
    tub = superquadric(np.array([x, y, z]) / 2, 0.12, e).moved(shift(0, 0, z / 2))
    lid_h = rng.uniform(0.008, 0.03)
    lid = superquadric(np.array([x + 0.008, y + 0.008, lid_h]) / 2, 0.15, e, part=1).moved(shift(0, 0, z))
    return mesh.join(tub, lid)


def _brick(rng: np.random.Generator) -> Mesh:
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
        revolved([(0.0, 0.0), *profile], [0] * len(profile), 16).moved(shift((i - (nx - 1) / 2) * pitch, (j - (ny - 1) / 2) * pitch, h))
        for i in range(nx)
        for j in range(ny)
    ]
    return mesh.join(body, *knobs)


def _drill(rng: np.random.Generator) -> Mesh:
    """A pistol shape: motor, chuck, handle, battery."""
    r, length = rng.uniform(0.02, 0.032), rng.uniform(0.1, 0.16)
    grip, base = rng.uniform(0.09, 0.14), np.array([rng.uniform(0.05, 0.1), rng.uniform(0.04, 0.06), rng.uniform(0.02, 0.04)])
    height = base[2] + grip
    along = np.array([1.0, 0, 0])
    start = np.array([-0.4 * length, 0, height])
    motor = rod(start, start + length * along, r, r * rng.uniform(0.8, 1.0))
    chuck = rod(start + length * along, start + (length + rng.uniform(0.03, 0.06)) * along, 0.7 * r, 0.35 * r, part=1)
    handle = rod(np.array([0.0, 0, 0.5 * base[2]]), np.array([rng.uniform(-0.02, 0.01), 0, height]), rng.uniform(0.014, 0.02), part=int(rng.integers(2)))
    foot = mesh.box((float(base[0]), float(base[1]), float(base[2])))
    return mesh.join(motor, chuck, handle, as_part(foot, int(rng.integers(2))))


def _hammer(rng: np.random.Generator) -> Mesh:
    """T and L shapes that lie: hammers, brushes, taps, squeegees."""
    length, r = rng.uniform(0.1, 0.26), rng.uniform(0.006, 0.014)
    head = rng.uniform(0.03, 0.12)
    size = (rng.uniform(0.014, 0.035), head, rng.uniform(0.014, 0.035))
    z = max(r, size[2] / 2)
    shaft = rod(np.array([0.0, 0, z]), np.array([length, 0, z]), r, r * rng.uniform(0.6, 1.0))
    off = rng.choice([0.0, 0.5 * head]) * rng.choice([-1, 1])
    return mesh.join(shaft, bar(size, shift(length, off, z), part=1))


def _tool(rng: np.random.Generator) -> Mesh:
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


def _driver(rng: np.random.Generator) -> Mesh:
    """A grip and a thin shaft: screwdrivers, brushes, torches, cutlery, ladles; it lies."""
    grip, r = rng.uniform(0.06, 0.12), rng.uniform(0.008, 0.02)
    shaft, thin = rng.uniform(0.04, 0.16), rng.uniform(0.0025, 0.007)
    waist = rng.uniform(0.6, 1.0)
    profile = [(0, 0), (0.8 * r, 0), (r, 0.15 * grip), (waist * r, 0.6 * grip), (0.9 * r, 0.9 * grip), (thin, grip), (thin, grip + shaft), (0, grip + shaft)]
    whole = revolved(profile, [0, 0, 0, 0, 0, 1, 1], 18)
    return whole.moved(shift(0, 0, r) @ turned(1, np.pi / 2))


def _cable(rng: np.random.Generator) -> Mesh:
    """A cable, hose or rope that lies in bows, or in a coil."""
    r, turns = rng.uniform(0.0025, 0.009), rng.uniform(0.5, 1.9)
    t = np.linspace(0, 1, 44)
    if rng.random() < 0.4:
        radius = rng.uniform(0.03, 0.08) * (1 + 0.35 * t)
        path = np.c_[radius * np.cos(2 * np.pi * turns * t), radius * np.sin(2 * np.pi * turns * t), r + 0.4 * r * turns * t]
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


def _ring(rng: np.random.Generator) -> Mesh:
    """Tape rolls, washers, bangles, tyres."""
    r, h = rng.uniform(0.02, 0.07), rng.uniform(0.008, 0.06)
    hole = r * rng.uniform(0.3, 0.85)
    soft = min(0.3 * (r - hole), 0.3 * h)
    profile = [(hole, 0), (r - soft, 0), (r, soft), (r, h - soft), (r - soft, h), (hole, h), (hole, 0)]
    return revolved(profile, [0, 0, 0, 0, 0, 1])


def _bag(rng: np.random.Generator) -> Mesh:
    size = np.array([rng.uniform(0.06, 0.22), rng.uniform(0.05, 0.16), rng.uniform(0.025, 0.12)])
    return lump(rng, size, rng.uniform(0.03, 0.12))


def _cloth(rng: np.random.Generator) -> Mesh:
    size = np.array([rng.uniform(0.1, 0.28), rng.uniform(0.08, 0.25), rng.uniform(0.015, 0.07)])
    return lump(rng, size, rng.uniform(0.12, 0.3))


def _union(rng: np.random.Generator) -> Mesh:
    """Two to four simple bodies grown together."""
    pieces: list[Mesh] = []
    at = np.zeros(3)
    for k in range(int(rng.integers(2, 5))):
        half = np.exp(rng.uniform(np.log(0.01), np.log(0.045), 3))
        body = superquadric(half, rng.choice([0.12, 1.0, 1.0]), rng.choice([0.12, 1.0]), part=k % 2)
        pose = shift(*at) @ turned(2, rng.uniform(0, np.pi)) @ turned(0, rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)]))
        pieces.append(body.moved(pose))
        way = rng.normal(size=3)
        at = at + way / np.linalg.norm(way) * half.mean() * rng.uniform(0.7, 1.2)
    whole = mesh.join(*pieces)
    return whole.moved(shift(0, 0, -float(whole.vertices[:, 2].min())))


def _pot(rng: np.random.Generator) -> Mesh:
    """A pan or pot with one long or two short handles."""
    r, h = rng.uniform(0.05, 0.1), rng.uniform(0.03, 0.09)
    profile, parts = _cup_profile(rng, r, h, 0.003)
    z, length = 0.75 * h, rng.choice([rng.uniform(0.08, 0.15), rng.uniform(0.02, 0.04)])
    reach = r + length
    sides = (1,) if length > 0.05 else (1, -1)
    handles = [rod(np.array([s * 0.93 * r, 0, z]), np.array([s * reach, 0, z]), 0.007, 0.009, part=2) for s in sides]
    return mesh.join(revolved(profile, parts), *handles)


def _tray(rng: np.random.Generator) -> Mesh:
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


def _known(kind: str) -> Callable[[np.random.Generator], Mesh]:
    return lambda rng: _on_table(more_objects.make(kind, rng))


def _on_table(m: Mesh) -> Mesh:
    return m.moved(shift(0, 0, -float(m.vertices[:, 2].min())))


_OWN: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "cup": _cup,
    "handled_cup": _handled,
    "dish": _dish,
    "flask": _flask,
    "tin": _can,
    "pin": _pin,
    "carton": _carton,
    "parcel": _parcel,
    "soft_box": _soft_box,
    "quadric": _quadric,
    "lidded": _lidded,
    "brick": _brick,
    "drill": _drill,
    "hammer": _hammer,
    "tool": _tool,
    "driver": _driver,
    "cable": _cable,
    "ring": _ring,
    "bag": _bag,
    "cloth": _cloth,
    "union": _union,
    "pot": _pot,
    "tray": _tray,
}
_MAKERS = {**_OWN, **{k: _known(k) for k in (*objects.KINDS, *more_objects.THIN, *more_objects.NOVEL, *more_objects.WIDE)}}
OWN_KINDS = tuple(_OWN)
KINDS = tuple(_MAKERS)
HOLLOW = ("cup", "handled_cup", "dish", "pot", "tray", "mug", "bowl", "tumbler")
ROUND = ("cup", "flask", "tin", "pin", "can", "bottle", "jar", "tumbler")
