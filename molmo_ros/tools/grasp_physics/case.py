"""A case: a scene with one thing in it to be grasped, and the families of cases.

Seeds below REPORT_FROM may be used for tuning; those from there on are only for reporting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from molmo_ros.sim import KINDS
from molmo_ros.sim.camera import intrinsics
from molmo_ros.sim.more_objects import NOVEL, THIN, make
from molmo_ros.sim.objects import colors_of
from molmo_ros.sim.render import Renderer
from molmo_ros.sim.scene import Scene, SimObject, look_at, random_light, random_table
from molmo_ros.tools.grasp_physics.placing import beside, put

REPORT_FROM = 10_000
MIN_SHOWN = 0.4  # of the target's own outline; nobody points at a thing that is mostly hidden
MIN_PIXELS = 250  # of the target in an image of 640x480
JUDGE = (160, 120)


@dataclass(frozen=True)
class Family:
    """What is drawn: kinds of the target and of the others, how many things, the gaps between them in m.

    elevation: of the camera, degrees; noise scales the sensor's; holes: mean number of them in the depth.
    """

    target: tuple[str, ...]
    others: tuple[str, ...] = KINDS
    count: tuple[int, int] = (1, 1)
    gap: tuple[float, float] = (0.02, 0.06)
    elevation: tuple[float, float] = (36.0, 66.0)
    noise: float = 1.0
    holes: float = 2.0


NOMINAL = Family(KINDS)
FAMILIES: dict[str, Family] = {
    "single": Family(KINDS),
    "spread": Family(KINDS, count=(4, 6)),
    "clutter": Family(KINDS, count=(5, 8), gap=(0.002, 0.03)),
    "touching": Family(KINDS, count=(2, 2), gap=(0.0005, 0.006)),
    "thin": Family(THIN),
    "rim": Family(("bowl", "mug")),
    "tall": Family(("bottle",), count=(1, 3)),
    "novel": Family(NOVEL, count=(1, 3), gap=(0.01, 0.06)),
    "low_camera": Family(KINDS, count=(1, 3), elevation=(22.0, 30.0)),
    "high_camera": Family(KINDS, count=(1, 3), elevation=(72.0, 84.0)),
    "clean": Family(KINDS, count=(5, 8), gap=(0.002, 0.03), noise=0.0),
    "noisy": Family(KINDS, count=(5, 8), gap=(0.002, 0.03), noise=2.0),
    "holes": Family(KINDS, count=(1, 3), holes=25.0),
}
INFEASIBLE = "infeasible"
NO_DEPTH, NOTHING = "no_depth", "nothing"  # its variants that affect the camera
HEAP, BIN, MUG_FLOOR, WILD = "heap", "bin", "mug_floor", "wild"  # unseen shapes in a room: wild_cases.py
NAMES = (*FAMILIES, HEAP, BIN, MUG_FLOOR, WILD, INFEASIBLE)


@dataclass(frozen=True)
class Case:
    """One target: the scene, the index of the thing, and what is known of it.

    gap: m to the nearest other thing; variant and feasible: of the family of infeasible targets, where it is
    known by construction.
    """

    family: str
    seed: int
    scene: Scene
    target: int
    gap: float
    noise: float = 1.0
    holes: float = 2.0
    variant: str = ""
    feasible: bool | None = None

    @property
    def thing(self) -> SimObject:
        return self.scene.objects[self.target]


def draw_things(f: Family, rng: np.random.Generator) -> list[SimObject]:
    """The target, in the middle, and the others around it."""
    count = int(rng.integers(f.count[0], f.count[1] + 1))
    first = str(rng.choice(f.target))
    things = [put(first, a_color(first, rng), make(first, rng), 0.0, 0.0, rng.uniform(0, 2 * np.pi))]
    for _ in range(3 * count):
        if len(things) == count:
            break
        kind = str(rng.choice(f.others))
        thing = beside(kind, a_color(kind, rng), make(kind, rng), things, f.gap, rng)
        things += [] if thing is None else [thing]
    return things


def a_color(kind: str, rng: np.random.Generator) -> str:
    """One of the colours in which a kind occurs."""
    return str(rng.choice(colors_of(kind)))


def look_around(
    things: list[SimObject], index: int, elevation: tuple[float, float], rng: np.random.Generator
) -> Scene:
    """A table, a light, and a camera that looks past the target by some centimetres."""
    up, around = np.radians(rng.uniform(*elevation)), rng.uniform(-np.pi, np.pi)
    focus = things[index].mesh.vertices.mean(axis=0) + np.array([*rng.uniform(-0.04, 0.04, 2), 0.0])
    away = np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])
    eye = focus + rng.uniform(0.45, 0.65) * away
    camera = look_at(eye, focus, roll=np.radians(rng.uniform(-4, 4)))
    return Scene(tuple(things), random_table(rng), random_light(rng), camera)


def shows(scene: Scene, index: int, share: float = MIN_SHOWN) -> bool:
    """Tell whether a share of the target's outline is in sight, and the image's border cuts nothing of it."""
    width, height = JUDGE
    K = intrinsics(width, height)
    alone = replace(scene, objects=(scene.objects[index],))
    whole = Renderer(alone, 1).ids(K, width, height) == 1
    border = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
    seen = Renderer(scene, 1).ids(K, width, height) == index + 1
    return bool(not border.any() and seen.sum() >= share * whole.sum() and 16 * seen.sum() >= MIN_PIXELS)
