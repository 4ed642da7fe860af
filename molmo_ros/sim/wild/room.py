"""Tables with edges, floors, walls, furniture, lamps and the camera's exposure, drawn at random."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim import mesh
from molmo_ros.sim.mesh import Mesh
from molmo_ros.sim.scene import Fixture, Light, Room, TableTop
from molmo_ros.sim.skin import Paint, Skin
from molmo_ros.sim.wild import paint
from molmo_ros.sim.wild.bodies import revolved, rod, shift, stretched, superquadric, turned

NO_EDGE = 0.25  # share of tables whose edge is far away
_LEGS = 4  # their shapes
ALBEDO_SEEN = 0.27  # of a usual picture; the exposure makes it middle grey


def random_top(rng: np.random.Generator) -> TableTop:
    """A table top that has the origin on it, mostly with an edge in sight."""
    turn, floor, thick = rng.uniform(0, 2 * np.pi), -rng.uniform(0.4, 0.9), rng.uniform(0.015, 0.06)
    if rng.random() < NO_EDGE:
        return TableTop(np.zeros(2), np.full(2, 6.0), turn, thick, floor)
    if rng.random() < 0.2:
        d = rng.uniform(0.5, 1.4)
        r, a = rng.uniform(0, 0.38) * d, rng.uniform(0, 2 * np.pi)
        return TableTop(r * np.array([np.cos(a), np.sin(a)]), np.full(2, d), turn, thick, floor, round=True)
    size = np.array([rng.uniform(0.5, 2.0), rng.uniform(0.4, 1.0)])
    c, s = np.cos(turn), np.sin(turn)
    off = np.array([[c, -s], [s, c]]) @ (rng.uniform(-0.42, 0.42, 2) * (size - 0.12))
    return TableTop(off, size, turn, thick, floor)


def random_room(rng: np.random.Generator, top: TableTop, eye: Array) -> Room:
    """A room around a table, seen from eye (3,) m: walls and furniture stand where they do not hide it."""
    fixtures: list[Fixture | None] = [_table(rng, top), *_legs(rng, top), _floor(rng, top)]
    fixtures += _walls(rng, eye, top)
    fixtures += [_furniture(rng, top, eye) for _ in range(int(rng.integers(0, 7)))]
    lamps = tuple(random_lamp(rng, rng.uniform(0.05, 0.5)) for _ in range(int(rng.integers(0, 3))))
    return Room(top, tuple(f for f in fixtures if f is not None), lamps, np.ones(3), rng.uniform(0.3, 1.3))


def random_lamp(rng: np.random.Generator, key: float) -> Light:
    """A lamp of a strength, from any direction above."""
    up, around = np.radians(rng.uniform(20, 85)), rng.uniform(-np.pi, np.pi)
    way = np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])
    warmth = rng.normal(0, 0.12)
    return Light(way, key, rng.uniform(0.25, 0.9), np.clip(np.array([1 + warmth, 1.0, 1 - warmth]), 0.5, 1.5))


def auto_gain(rng: np.random.Generator, linear_mean: float) -> Array:
    """Gain (3,) of a camera with automatic exposure, more or less good, and imperfect white balance."""
    gain = ALBEDO_SEEN / max(linear_mean, 1e-3) * np.exp(rng.normal(0, 0.3))
    balance = np.exp(np.array([rng.normal(0, 0.07), rng.normal(0, 0.025), rng.normal(0, 0.07)]))
    return np.asarray(np.clip(gain, 0.2, 6.0) * balance)


def _table(rng: np.random.Generator, top: TableTop) -> Fixture:
    pose = shift(top.centre[0], top.centre[1], 0.0) @ turned(2, top.turn)
    if top.round:
        body = stretched(_unit_disc(), np.array([top.size[0] / 2, top.size[0] / 2, top.thickness]))
    else:
        body = mesh.box((top.size[0], top.size[1], top.thickness)).moved(shift(0, 0, -top.thickness))
    return Fixture(body.moved(pose), Skin((table_paint(rng),)), pose)


def table_paint(rng: np.random.Generator) -> Paint:
    """Wood most of the time; plain, stone, cloth or print else."""
    kind = rng.random()
    if kind < 0.5:
        tone = rng.uniform(0.06, 0.6)
        color = tone * np.array([1.0, rng.uniform(0.6, 0.95), rng.uniform(0.35, 0.9)])
        wood = paint.patterned(rng, color, paint.WOODS, 0.6)
        return Paint(_near(rng, color), wood.texture, wood.index, wood.period, wood.origin, gloss=wood.gloss)
    color = paint.muted(paint.any_color(rng), rng.uniform(0.0, 1.0))
    if kind < 0.72:
        return paint.plain(color, float(rng.choice([0.0, 0.1, 0.3, 0.6])))
    if kind < 0.95:
        return paint.patterned(rng, color, paint.PATTERNS, rng.uniform(0.05, 0.7))
    return paint.label(rng, np.zeros(3), np.full(3, rng.uniform(0.2, 0.8)), False)


def _near(rng: np.random.Generator, color: Array) -> Array:
    spread = rng.uniform(0.08, 0.5)
    return np.stack([color * (1 - spread), color, np.clip(color * (1 + 0.7 * spread), 0, 0.9)])


def _legs(rng: np.random.Generator, top: TableTop) -> list[Fixture]:
    pose = shift(top.centre[0], top.centre[1], 0.0) @ turned(2, top.turn)
    skin, r = Skin((paint.plain(paint.any_color(rng), 0.2),)), rng.uniform(0.015, 0.045)
    corners = [(0.0, 0.0)] if top.round else [(a, b) for a in (-1, 1) for b in (-1, 1)]
    half = np.maximum(top.size / 2 - 2 * r, 0)
    legs, shape = [], int(rng.integers(_LEGS))
    for corner in corners:
        x, y = half * corner
        leg = stretched(_unit_leg(shape), np.array([r, r, -top.floor - top.thickness])).moved(
            shift(x, y, top.floor)
        )
        legs.append(Fixture(leg.moved(pose), skin, pose))
    return legs


@lru_cache(maxsize=1)
def _unit_disc() -> Mesh:
    """A round top of radius and thickness 1 below z = 0."""
    return revolved([(0, -1), (0.98, -1), (1, -0.7), (1, -0.1), (0.99, 0), (0, 0)], [0] * 5, 48)


@lru_cache(maxsize=8)
def _unit_leg(index: int) -> Mesh:
    """A leg of radius and height about 1 on z = 0: straight, tapered or turned."""
    if index == 0:
        return mesh.box((1.6, 1.6, 1.0))
    z = np.linspace(0, 1, 7)
    radius = 0.6 + 0.4 * z + (0.25 * np.sin(np.arange(7) * index) if index > 1 else 0)
    profile = [(0.0, 0.0), *zip(radius.tolist(), z.tolist(), strict=True), (0.0, 1.0)]
    return revolved(profile, [0] * 8, 16)


def _floor(rng: np.random.Generator, top: TableTop) -> Fixture:
    pose = shift(0, 0, top.floor - 0.01) @ turned(2, rng.uniform(0, np.pi))
    color = paint.muted(paint.any_color(rng), rng.uniform(0.2, 1.0)) * rng.uniform(0.4, 1.0)
    kind = rng.random()
    names = ("carpet", "speckle", "weave") if kind < 0.5 else ("planks", "tiles", "clouds")
    coat = paint.plain(color) if kind > 0.88 else paint.patterned(rng, color, names, rng.uniform(0.3, 1.2))
    return Fixture(mesh.box((12.0, 12.0, 0.01)).moved(pose), Skin((coat,)), pose)


def _walls(rng: np.random.Generator, eye: Array, top: TableTop) -> list[Fixture]:
    """Up to two walls beyond the table, as the eye sees it."""
    away = -eye[:2] / max(float(np.linalg.norm(eye[:2])), 1e-6)
    heading = np.arctan2(away[1], away[0])
    walls = []
    for k in range(int(rng.choice([0, 1, 2], p=[0.3, 0.4, 0.3]))):
        turn = heading + (rng.uniform(-0.6, 0.6) if k == 0 else rng.choice([-1, 1]) * rng.uniform(1.0, 1.7))
        near = _reach(top, turn) + 0.03
        far = near + rng.choice([0.0, rng.uniform(0.05, 0.5), rng.uniform(0.5, 3.0)], p=[0.25, 0.3, 0.45])
        pose = turned(2, turn) @ shift(min(far, 5.5), 0.0, top.floor)
        coat = (
            paint.plain(paint.muted(paint.any_color(rng), rng.uniform(0, 1)))
            if rng.random() < 0.6
            else table_paint(rng)
        )
        walls.append(Fixture(mesh.box((0.02, 10.0, 3.0)).moved(pose), Skin((coat,)), pose))
    return walls


def _reach(top: TableTop, heading: float) -> float:
    """How far (m) the table reaches from the origin in a direction."""
    way = np.array([np.cos(heading), np.sin(heading)])
    if top.round:
        return float(way @ top.centre + top.size[0] / 2)
    c, s = np.cos(top.turn), np.sin(top.turn)
    axes = np.array([[c, s], [-s, c]])
    reach = float(way @ top.centre + (np.abs(axes @ way) * top.size / 2).sum())
    return reach if reach < 2.5 else 0.9  # where no edge is in sight, a wall may stand on the table


def _furniture(rng: np.random.Generator, top: TableTop, eye: Array) -> Fixture | None:
    """A chair, cupboard, crate or leg on the floor beside the table, or a big thing at its far side."""
    heading = np.arctan2(-eye[1], -eye[0]) + rng.uniform(-1.2, 1.2)
    size = np.exp(rng.uniform(np.log(0.1), np.log(0.9), 3))
    far = _reach(top, heading) + float(np.hypot(size[0], size[1])) / 2 + rng.uniform(0.01, 1.5)
    if top.size.min() > 4.0:
        return None
    pose = turned(2, heading) @ shift(far, 0.0, top.floor) @ turned(2, rng.uniform(0, np.pi))
    color = paint.any_color(rng)
    coat = paint.plain(color, 0.2) if rng.random() < 0.5 else paint.patterned(rng, color, paint.PATTERNS, 0.4)
    return Fixture(_big_body(rng, size).moved(pose), Skin((coat,)), pose)


def _big_body(rng: np.random.Generator, size: Array) -> Mesh:
    kind = rng.random()
    if kind < 0.5:
        return mesh.box((float(size[0]), float(size[1]), float(size[2])))
    if kind < 0.75:
        return superquadric(size / 2, rng.uniform(0.2, 1.2), rng.uniform(0.2, 1.2)).moved(
            shift(0, 0, size[2] / 2)
        )
    return rod(np.zeros(3), np.array([0, 0, size[2] + 0.2]), 0.3 * float(size[0]), 0.2 * float(size[1]))
