"""Targets in scenes of sim/wild: heaps, bins, the floor inside a vessel, unseen shapes near a table's edge.

Shapes are drawn from numbers that no training uses; tuning (seeds below REPORT_FROM) and reporting have their
own. Everything has come to rest in the physics in which it is grasped.

A thing becomes a target only if one could ask for it and some hand could take it. The true scene decides
that, never the planner of this package:
- Of its own outline at least MIN_SHOWN is in sight (SHOWN_IN_HEAP in heaps and bins: nobody asks for what is
  below) and MIN_PIXELS px, and the border of the picture cuts nothing of it.
- Hands are sampled on CONTACTS points of its true surface, those of a Franka that opens to 80 mm; at least
  FREE_HANDS of them meet nothing on their way in. None of them is executed: some targets still cannot be
  lifted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial import ConvexHull

from molmo_ros.datatypes import Array
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.sim.camera import intrinsics
from molmo_ros.sim.render import Renderer
from molmo_ros.sim.scene import Scene, SimObject, TableTop, look_at, random_table
from molmo_ros.sim.wild import heaps, scenes
from molmo_ros.sim.wild import room as rooms
from molmo_ros.sim.wild.layout import Layout, dressed
from molmo_ros.sim.wild.shapes import Shape, shape
from molmo_ros.tools.grasp_physics.case import (
    BIN,
    HEAP,
    JUDGE,
    MIN_SHOWN,
    MUG_FLOOR,
    REPORT_FROM,
    WILD,
    Case,
    shows,
)
from molmo_ros.tools.grasp_physics.oracle import free_hands
from molmo_ros.tools.grasp_physics.placing import nearest_gap
from molmo_ros.tools.grasp_physics.view import inner_floor
from molmo_ros.tools.grasp_physics.world import settled

SHOWN_IN_HEAP = 0.6
CONTACTS, FREE_HANDS = 80, 3  # points of the target's surface that are tried, hands that must be free
HAND_REACH_M = 0.25
FLOOR_PIXELS = 60  # of a vessel's inner floor, in an image of 640x480
NUMBERS = {"tuning": (10**6, 2 * 10**6), "reporting": (2 * 10**6, 3 * 10**6)}  # of shapes
REFERENCE_HAND = "franka_hand"
DENSITY, MASS_KG = 450.0, (0.02, 0.7)  # kg/m3 of the pieces, and what a thing weighs
SECTORS, SLICES = 20, 3  # pieces of hollow things
ELEVATION = {HEAP: (38.0, 80.0), BIN: (52.0, 85.0), MUG_FLOOR: (52.0, 84.0), WILD: (22.0, 82.0)}  # degrees
DISTANCE_M = {HEAP: (0.45, 0.8), BIN: (0.5, 0.8), MUG_FLOOR: (0.4, 0.8), WILD: (0.4, 1.1)}
VESSELS = ("mug", "tumbler", "cup", "handled_cup")
USUAL = ("mug", "can", "box", "bottle", "marker", "torch", "sponge", "tape")
KINDS = (*(k for k in heaps.RIGID if k not in ("tray", "pot")), *USUAL)


def draw_wild(family: str, seed: int, rng: np.random.Generator) -> Case:
    """Draw the target of one of the families HEAP, BIN, MUG_FLOOR, WILD with a seed."""
    numbers = range(*NUMBERS["tuning" if seed < REPORT_FROM else "reporting"])
    while True:
        arranged = _arranged(family, rng, numbers)
        if all(thing.fixed for thing in arranged.objects):
            continue  # all that was dropped rolled away
        scene = settled(arranged)
        order = [int(k) for k in rng.permutation(len(scene.objects))]
        for index in order if family in (HEAP, BIN) else (0,):
            seen = _looked_at(family, scene, index, rng)
            if _is_target(family, seen, index, rng):
                return Case(family, seed, seen, index, nearest_gap(index, scene.objects))


def _arranged(family: str, rng: np.random.Generator, numbers: range) -> Scene:
    """Things on a table, not yet at rest; the camera is set later."""
    top = rooms.random_top(rng)
    if family in (HEAP, BIN):
        top = TableTop(np.zeros(2), np.full(2, rng.uniform(1.0, 1.8)), top.turn, top.thickness, top.floor)
        box = heaps.bin_shape(rng) if family == BIN else None
        shapes = heaps.draw_things(rng, int(rng.integers(5, 13)), numbers, KINDS)
        placed = heaps.drop(rng, shapes, box)
        placed += [] if box is None else [(box, np.eye(4))]
    else:
        layout = Layout(rng, top, numbers)
        kinds = VESSELS if family == MUG_FLOOR else KINDS
        first = shape(str(rng.choice(kinds)), int(rng.integers(numbers.start, numbers.stop)))
        layout.keep(first, _posed(first, family, rng))
        for _ in range(int(rng.integers(0, 6 if family == WILD else 3))):
            layout.put(layout.draw(), str(rng.choice(["free", "close"])), 0.25)
        placed = layout.placed
    things = tuple(
        _heavy(thing, made) for thing, (made, _) in zip(dressed(rng, placed, 0.0), placed, strict=True)
    )
    room = rooms.random_room(rng, top, np.array([0.3, 0.0, 0.5]))
    return Scene(things, random_table(rng), rooms.random_lamp(rng, rng.uniform(0.4, 1.1)), np.eye(4), room)


def _posed(thing: Shape, family: str, rng: np.random.Generator) -> Array:
    """Upright; for WILD often in any pose of rest."""
    if family == MUG_FLOOR or rng.random() < 0.5:
        return np.eye(4)
    return np.asarray(thing.poses[int(rng.choice(len(thing.poses), p=thing.shares))])


def _heavy(thing: SimObject, made: Shape) -> SimObject:
    """The thing with a mass and with convex pieces for physics; a bin does not move."""
    pieces = heaps.coarse_pieces(made, SECTORS, SLICES)
    T = thing.T_world_object
    mass = float(np.clip(DENSITY * sum(ConvexHull(p).volume for p in pieces), *MASS_KG))
    mesh = replace(thing.mesh, solids=tuple(p @ T[:3, :3].T + T[:3, 3] for p in pieces))
    return replace(thing, mesh=mesh, mass=mass, fixed=made.kind == "bin")


def _looked_at(family: str, scene: Scene, index: int, rng: np.random.Generator) -> Scene:
    """The scene with a camera that looks past a thing by some centimetres, and exposes for what it sees."""
    up, around = np.radians(rng.uniform(*ELEVATION[family])), rng.uniform(-np.pi, np.pi)
    focus = scene.objects[index].mesh.vertices.mean(axis=0) + np.array([*rng.uniform(-0.06, 0.06, 2), 0.0])
    away = np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])
    eye = focus + rng.uniform(*DISTANCE_M[family]) * away
    camera = look_at(eye, focus, roll=float(np.radians(rng.uniform(-6, 6))))
    assert scene.room is not None
    scene = replace(scene, T_world_camera=camera, room=rooms.random_room(rng, scene.room.top, eye))
    return scenes.exposed(rng, scene, intrinsics(*JUDGE), *JUDGE)[0]


def _is_target(family: str, scene: Scene, index: int, rng: np.random.Generator) -> bool:
    """Tell whether one can ask for a thing, and some hand can reach it (see above)."""
    thing = scene.objects[index]
    on_table = scene.room is not None and scene.room.top.holds(thing.mesh.vertices[:, :2]).all()
    share = SHOWN_IN_HEAP if family in (HEAP, BIN) else MIN_SHOWN
    if thing.fixed or not on_table or not shows(scene, index, share):
        return False
    if family == MUG_FLOOR and not _shows_floor(scene, index):
        return False
    _, free = free_hands(_near(scene, index), 0, Gripper.load(REFERENCE_HAND), rng, CONTACTS)
    return len(free) >= FREE_HANDS


def _near(scene: Scene, index: int) -> Scene:
    """A thing, which comes first, and those that a hand on it could meet."""
    middle = scene.objects[index].mesh.vertices.mean(axis=0)
    others = [o for i, o in enumerate(scene.objects) if i != index]
    near = [
        o for o in others if np.linalg.norm(o.mesh.vertices - middle, axis=1).min() < HAND_REACH_M or o.fixed
    ]
    return replace(scene, objects=(scene.objects[index], *near))


def _shows_floor(scene: Scene, index: int) -> bool:
    """Tell whether enough of the inner floor of a vessel, which still stands, is in sight."""
    if scene.objects[index].T_world_object[2, 2] < 0.999:
        return False
    width, height = JUDGE
    K = intrinsics(width, height)
    seen = Renderer(scene, 1).render(K, width, height)
    thing, mask = scene.objects[index], seen.ids == index + 1
    floor = inner_floor(thing, scene.T_world_camera, K, mask, seen.depth)
    return bool(16 * floor.sum() >= FLOOR_PIXELS)
