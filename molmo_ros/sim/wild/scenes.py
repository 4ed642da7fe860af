"""Scenes on which nothing was tuned, and one view of each: to train and evaluate a mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim.render import Render, Renderer
from molmo_ros.sim.scene import Scene, SimObject, TableTop, look_at, random_table
from molmo_ros.sim.wild import heaps
from molmo_ros.sim.wild import room as rooms
from molmo_ros.sim.wild.bodies import turned
from molmo_ros.sim.wild.layout import COMMON, WAYS, Layout, dressed

TRAINING, TUNING, REPORTING = 101, 102, 103
POOLS = {TRAINING: range(48), TUNING: range(1000, 1048), REPORTING: range(2000, 2048)}  # of each kind
POOL = POOLS[TRAINING]
HEAPS = 150  # of a pool: each is seen again with other skins, lights, rooms and cameras
MOST = 60  # things
STACKS, BINS = 0.2, 0.7  # of crowded scenes, and of those of them that are heaps
HFOV_DEG = (42.0, 75.0)
_THUMB = (64, 48)  # px, for the exposure


def wild_scene(rng: np.random.Generator, numbers: Sequence[int] = POOL, physics: float = 0.2) -> Scene:
    """A scene drawn from rng.

    Args: numbers, of the individuals of each kind of shape that may occur; physics, share of scenes with a
    heap that was dropped in MuJoCo.
    """
    top = rooms.random_top(rng)
    layout = Layout(rng, top, numbers)
    radius = rng.uniform(0.08, 0.35)
    if rng.random() < physics:
        _add_heap(rng, layout, numbers)
    crowd = rng.dirichlet([1.2, 1.0, 0.8, 0.5])
    for _ in range(int(rng.integers(0 if layout.placed else 1, 16))):
        way = WAYS[int(rng.choice(len(WAYS), p=crowd))]
        layout.put(layout.draw(), way, radius) or layout.put(layout.draw(), "free", radius)
    if not layout.placed:
        return wild_scene(rng, numbers, physics)
    clear = 0.35 if rng.random() < 0.2 else 0.0
    things = dressed(rng, layout.placed[:MOST], clear)
    camera = random_camera(rng, things[int(rng.integers(len(things)))].mesh.vertices.mean(axis=0))
    return _in_a_room(rng, top, things, camera)


def crowded_scene(rng: np.random.Generator, numbers: Sequence[int] = POOL) -> Scene:
    """A scene as one picks from: a bin full of things, a heap or stacks, the camera near and mostly above.

    Heaps are dropped anew for each scene. Args: numbers, of the individuals of each kind that may occur.
    """
    top = rooms.random_top(rng)
    layout = Layout(rng, top, numbers)
    stacked = rng.random() < STACKS
    if not stacked:
        for thing, T in heaps.dropped(rng, numbers, BINS, (5, 15), (*heaps.RIGID, *COMMON)):
            layout.keep(thing, T)
    crowd = [0.25, 0.15, 0.5, 0.1] if stacked else [0.6, 0.3, 0.05, 0.05]
    for _ in range(int(rng.integers(4, 11) if stacked else rng.integers(0, 4))):
        layout.put(layout.draw(), WAYS[int(rng.choice(len(WAYS), p=crowd))], 0.3)
    if not layout.placed:
        return crowded_scene(rng, numbers)
    things = dressed(rng, layout.placed[:MOST], 0.0)
    focus = things[int(rng.integers(len(things)))].mesh.vertices.mean(axis=0)
    camera = _near_camera(rng, focus, (25, 70) if stacked else (38, 89))
    return _in_a_room(rng, top, things, camera)


def _in_a_room(
    rng: np.random.Generator, top: TableTop, things: tuple[SimObject, ...], camera: Array
) -> Scene:
    room = rooms.random_room(rng, top, camera[:3, 3])
    light = rooms.random_lamp(rng, rng.choice([0.1, 0.5, 1.0]) * rng.uniform(0.5, 1.2))
    return Scene(things, random_table(rng), light, camera, room)


def _add_heap(rng: np.random.Generator, layout: Layout, numbers: Sequence[int]) -> None:
    """One of the heaps of these shapes, turned and shifted, if there is room for it on the table."""
    placed = heaps.heap(int(rng.integers(HEAPS)), numbers[0], len(numbers))
    turn = turned(2, rng.uniform(0, 2 * np.pi))
    x, y = rng.normal(0, 0.03, 2).tolist()
    there = heaps.moved(placed, x, y, turn)
    if all(layout.holds(thing, T) for thing, T in there):
        for thing, T in there:
            layout.keep(thing, T)


def random_camera(rng: np.random.Generator, focus: Array) -> Array:
    """T_world_camera (4,4): 0.3 to 1.5 m from the focus (3,) m, 20 to 89 degrees down, rolled a little."""
    up, around = np.radians(rng.triangular(20, 45, 89)), rng.uniform(-np.pi, np.pi)
    distance = float(np.exp(rng.uniform(np.log(0.33), np.log(1.4))))
    away = np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])
    target = np.array(
        [*(0.7 * focus[:2] + rng.normal(0, 0.12 * distance, 2)), focus[2] * rng.uniform(0.3, 1)]
    )
    return look_at(target + distance * away, target, roll=float(np.radians(rng.normal(0, 5))))


def _near_camera(rng: np.random.Generator, focus: Array, elevation_deg: tuple[float, float]) -> Array:
    """T_world_camera (4,4): 0.35 to 0.95 m from the focus (3,) m, looking down by some degrees, rolled a
    little."""
    up, around = np.radians(rng.uniform(*elevation_deg)), rng.uniform(-np.pi, np.pi)
    away = np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])
    target = focus + np.array([*rng.normal(0, 0.05, 2), 0.0])
    return look_at(target + rng.uniform(0.35, 0.95) * away, target, roll=float(np.radians(rng.normal(0, 5))))


def random_intrinsics(rng: np.random.Generator, width: int, height: int) -> Array:
    """K (3,3) px of a camera with a horizontal field of view within HFOV_DEG."""
    f = width / 2 / np.tan(np.radians(rng.uniform(*HFOV_DEG)) / 2)
    off = rng.normal(0, 0.01 * width, 2)
    return np.array([[f, 0, (width - 1) / 2 + off[0]], [0, f, (height - 1) / 2 + off[1]], [0, 0, 1.0]])


def exposed(
    rng: np.random.Generator, scene: Scene, K: Array, width: int, height: int
) -> tuple[Scene, Renderer]:
    """The scene with the gain that its camera would choose, and its renderer."""
    renderer = Renderer(scene, 1)
    small = K * [[_THUMB[0] / width], [_THUMB[1] / height], [1.0]]
    renderer = renderer.exposed(rooms.auto_gain(rng, renderer.brightness(small, *_THUMB)))
    return renderer.scene, renderer


def wild_view(
    rng: np.random.Generator,
    width: int = 320,
    height: int = 240,
    numbers: Sequence[int] = POOL,
    physics: float = 0.2,
    K: Array | None = None,
    crowded: bool = False,
) -> tuple[Render, Array, Scene]:
    """One clean view of a new scene: (render, K (3,3) px, scene); at least one thing is in sight.

    Args: K, of the camera (default: drawn too); numbers and physics as of wild_scene; crowded, whether the
    scene is one of crowded_scene.

    render.rgb and render.depth have no noise: sim/noise.py adds it. render.ids: 0 is table, floor, walls; i
    is scene.objects[i-1], a bin too. render.material: flags of sim/skin.py (DARK, SHINY, TRANSPARENT). The
    same rng gives the same view. Training takes any n below, evaluations other streams and pools:

        from molmo_ros.sim.wild import POOLS, TRAINING, wild_view
        render, K, scene = wild_view(np.random.default_rng([n, TRAINING]), numbers=POOLS[TRAINING])
    """
    while True:
        scene = crowded_scene(rng, numbers) if crowded else wild_scene(rng, numbers, physics)
        K = random_intrinsics(rng, width, height) if K is None else K
        scene, renderer = exposed(rng, scene, K, width, height)
        render = renderer.render(K, width, height)
        if np.count_nonzero(render.ids) > 0.002 * render.ids.size:
            return render, K, scene
