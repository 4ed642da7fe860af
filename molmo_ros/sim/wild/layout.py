"""Things put on a table: apart, close, touching, stacked, one in another, in bins and in heaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim.scene import SimObject, TableTop
from molmo_ros.sim.wild import paint
from molmo_ros.sim.wild.bodies import shift, turned
from molmo_ros.sim.wild.ground import Ground
from molmo_ros.sim.wild.shapes import KINDS, LIMITS_M, OWN_KINDS, Shape, shape

COMMON = ("carton", "tin", "flask", "handled_cup", "cup", "dish", "lidded", "marker", "drill", "bag")
WAYS = ("free", "close", "stack", "inside")
TRIES, PROBES = 12, 350
_STEP_M = 0.006


class Layout:
    """Grows a set of things on a table; numbers: of the individuals of each kind that may occur."""

    def __init__(self, rng: np.random.Generator, top: TableTop, numbers: Sequence[int]) -> None:
        self._rng, self._top, self._numbers = rng, top, numbers
        self._ground = Ground()
        self.placed: list[tuple[Shape, Array]] = []  # with T_world_object

    def draw(self) -> Shape:
        """A shape of any kind; our own constructions more often."""
        kinds = (COMMON, OWN_KINDS, KINDS)[int(self._rng.choice(3, p=[0.35, 0.4, 0.25]))]
        number = self._numbers[int(self._rng.integers(len(self._numbers)))]
        made = shape(kinds[int(self._rng.integers(len(kinds)))], int(number))
        longest = float(np.ptp(made.mesh.vertices, axis=0).max())
        grow = np.clip(np.exp(self._rng.normal(0, 0.18)), LIMITS_M[0] / longest, LIMITS_M[1] / longest)
        return made.grown(float(grow))

    def pose(self, thing: Shape) -> Array:
        """A pose (4,4), upright or as it may lie, turned about z; its middle is above the origin."""
        k = 0 if self._rng.random() < 0.6 else int(self._rng.choice(len(thing.poses), p=thing.shares))
        return np.asarray(turned(2, self._rng.uniform(0, 2 * np.pi)) @ thing.poses[k])

    def holds(self, thing: Shape, T: Array) -> bool:
        """Tell whether all of a thing at a pose in the world is above the table."""
        return bool(self._top.holds(thing.points @ T[:2, :3].T + T[:2, 3]).all())

    def keep(self, thing: Shape, T: Array) -> None:
        """Leave a thing at a pose in the world."""
        self.placed.append((thing, T))
        self._ground.add(thing.points @ T[:3, :3].T + T[:3, 3])

    def put(self, thing: Shape, way: str, radius: float) -> bool:
        """Put a thing down in one of WAYS, free ones within radius m of the origin; False: no room."""
        anchors = [(s, T) for s, T in self.placed if way != "inside" or (s.hollow and T[2, 2] > 0.99)]
        if way != "free" and not anchors:
            return False
        for _ in range(TRIES):
            T = self.pose(thing)
            points = thing.points[:PROBES] @ T[:3, :3].T + T[:3, 3]
            spot = self._spot(points, way, radius, anchors)
            if spot is not None and self._top.holds(np.array([spot[:2]]), margin=0.01).all():
                self.keep(thing, shift(*spot) @ T)
                return True
        return False

    def _spot(
        self, points: Array, way: str, radius: float, anchors: list[tuple[Shape, Array]]
    ) -> tuple[float, float, float] | None:
        """Where (x, y, lift) m a thing with points (N,3) m goes, or None if it cannot be placed."""
        rng = self._rng
        if way == "free":
            r, a = radius * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
            x, y = float(r * np.cos(a)), float(r * np.sin(a))
            return (x, y, 0.0) if self._ground.rest(points, x, y) < 1e-3 else None
        anchor, T = anchors[int(rng.integers(len(anchors)))]
        middle = (T[:3, :3] @ anchor.mesh.vertices.mean(axis=0) + T[:3, 3])[:2]
        if way == "close":
            return self._slide(points, middle)
        x, y = (middle + rng.normal(0, 0.008, 2)).tolist()
        lift = self._ground.rest(points, x, y)
        if way == "inside":
            highest = float((anchor.points @ T[:3, :3].T + T[:3, 3])[:, 2].max())
            return (x, y, lift) if 0.001 < lift < 0.6 * highest else None
        return (x, y, lift) if 0.005 < lift < 0.3 and self._ground.bears(points, x, y, lift) else None

    def _slide(self, points: Array, middle: Array) -> tuple[float, float, float] | None:
        """From the middle of another thing outward until the table is free, as the height map tells."""
        angle = self._rng.uniform(0, 2 * np.pi)
        way = np.array([np.cos(angle), np.sin(angle)])
        for k in range(60):
            x, y = (middle + k * _STEP_M * way).tolist()
            if self._ground.rest(points, x, y) < 1e-3:
                return x, y, 0.0
        return None


def dressed(
    rng: np.random.Generator, placed: Sequence[tuple[Shape, Array]], clear: float
) -> tuple[SimObject, ...]:
    """Things with skins, without solids; now and then all in a few colours, so that neighbours look alike."""
    few = [paint.any_color(rng) for _ in range(int(rng.integers(1, 4)))] if rng.random() < 0.3 else []
    things = []
    for made, T in placed:
        color = few[int(rng.integers(len(few)))] * rng.uniform(0.85, 1.15) if few else paint.any_color(rng)
        skin = paint.thing_skin(rng, made, color, clear)
        things.append(SimObject(made.kind, "", T, replace(made.mesh, solids=()).moved(T), skin))
    return tuple(things)
