"""A table with things on it, a light and a camera: drawn at random, fair to the smallest model.

Fair means: every object shows at least MIN_VISIBLE of the image, and none is cut by its border (camera.py
sees to it).
World frame: z up, the table top at z = 0, its middle at the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim import objects
from molmo_ros.sim.mesh import Mesh
from molmo_ros.sim.skin import Skin

MIN_VISIBLE = 0.014  # share of the image
TABLE_SIZE = (1.6, 1.2, 0.03)
_GAP = 0.012  # metres between footprints


@dataclass(frozen=True)
class SimObject:
    """One thing on the table: its name, its pose in the world (4,4), and its mesh in the world.

    skin: how its surface looks; None: the plain palette of kind and color. mass: kg, None: that of its kind.
    fixed: it cannot be moved.
    """

    kind: str
    color: str
    T_world_object: Array
    mesh: Mesh
    skin: Skin | None = None
    mass: float | None = None
    fixed: bool = False

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}".strip()


@dataclass(frozen=True)
class Light:
    """direction (3,) unit, towards the lamp; strengths of lamp and sky; tint (3,) of the lamp."""

    direction: Array
    key: float
    sky: float
    tint: Array


@dataclass(frozen=True)
class Table:
    """A texture family and two albedos (3,), linear."""

    texture: str
    color_a: Array
    color_b: Array
    scale: float
    angle: float


@dataclass(frozen=True)
class Fixture:
    """A part of the room: its mesh in the world, its skin, and the pose (4,4) of the skin's own frame."""

    mesh: Mesh
    skin: Skin
    T_world_fixture: Array


@dataclass(frozen=True)
class TableTop:
    """The top of a table, its upper side at z = 0: centre (2,) m, size (2,) m (round: its diameter, twice).

    turn: rad about z. thickness: m. floor: m, height of the floor, below 0.
    """

    centre: Array
    size: Array
    turn: float
    thickness: float
    floor: float
    round: bool = False

    def holds(self, xy: Array, margin: float = 0.0) -> np.ndarray:
        """Tell which points (N,2) m lie on the top, at least margin m from its edge."""
        c, s = np.cos(self.turn), np.sin(self.turn)
        local = (xy - self.centre) @ np.array([[c, -s], [s, c]])
        if self.round:
            return np.asarray(np.hypot(local[:, 0], local[:, 1]) <= self.size[0] / 2 - margin)
        return np.asarray((np.abs(local) <= self.size / 2 - margin).all(axis=1))


@dataclass(frozen=True)
class Room:
    """What is around the things, in place of the plain table and floor: all of it has instance id 0.

    lamps: beside Scene.light, without shadows. gain: (3,) of the channels, for exposure and white balance.
    blur: px at a width of 640, standard deviation of the optics.
    """

    top: TableTop
    fixtures: tuple[Fixture, ...]
    lamps: tuple[Light, ...]
    gain: Array
    blur: float


@dataclass(frozen=True)
class Scene:
    objects: tuple[SimObject, ...]
    table: Table
    light: Light
    T_world_camera: Array
    room: Room | None = None


def look_at(eye: Array, target: Array, roll: float = 0.0) -> Array:
    """T_world_camera (4,4) of an optical frame (x right, y down, z forward) at eye that looks at target."""
    z = (target - eye) / np.linalg.norm(target - eye)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    c, s = np.cos(roll), np.sin(roll)
    T = np.eye(4)
    T[:3, :3] = np.stack([c * x + s * y, -s * x + c * y, z], 1)
    T[:3, 3] = eye
    return T


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene drawn from rng; its objects may still hide each other (see camera.fair_scene)."""
    return Scene(_objects(rng), random_table(rng), random_light(rng), _camera(rng))


def _camera(rng: np.random.Generator) -> Array:
    elevation, azimuth = np.radians(rng.uniform(36, 66)), rng.uniform(-np.pi, np.pi)
    distance = rng.uniform(0.45, 0.56)
    target = np.array([*rng.uniform(-0.02, 0.02, 2), 0.03])
    away = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    return look_at(target + distance * away, target, roll=np.radians(rng.uniform(-4, 4)))


def random_light(rng: np.random.Generator) -> Light:
    """A lamp that stands anywhere, not too low."""
    elevation, azimuth = np.radians(rng.uniform(38, 80)), rng.uniform(-np.pi, np.pi)
    direction = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    warmth = rng.uniform(-0.10, 0.10)
    return Light(
        direction, rng.uniform(0.6, 1.1), rng.uniform(0.35, 0.6), np.array([1 + warmth, 1.0, 1 - warmth])
    )


def random_table(rng: np.random.Generator) -> Table:
    """A table top of wood, stone or paint."""
    texture = str(rng.choice(["plain", "wood", "checker", "speckle"]))
    tone = rng.uniform(0.10, 0.60)
    hue = np.array([1.0, rng.uniform(0.80, 1.0), rng.uniform(0.62, 1.0)])  # greys to browns
    color = tone * hue
    return Table(
        texture, color, color * rng.uniform(0.55, 0.85), rng.uniform(0.6, 1.6), rng.uniform(0, np.pi)
    )


def _objects(rng: np.random.Generator) -> tuple[SimObject, ...]:
    count = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.08, 0.12, 0.18, 0.22, 0.22, 0.18]))
    placed: list[SimObject] = []
    circles: list[tuple[float, float, float]] = []
    favourite = str(rng.choice(objects.KINDS))  # repeats of a kind make counting worth asking
    for _ in range(count):
        kind = favourite if rng.random() < 0.3 else str(rng.choice(objects.KINDS))
        color = str(rng.choice(objects.colors_of(kind)))
        shape = objects.make(kind, rng)
        radius = float(np.linalg.norm(shape.vertices[:, :2], axis=1).max())
        spot = _free_spot(rng, circles, radius)
        if spot is None:
            continue
        circles.append((*spot, radius))
        placed.append(_stand(kind, color, shape, spot, rng.uniform(0, 2 * np.pi)))
    return tuple(placed)


def _free_spot(
    rng: np.random.Generator, circles: list[tuple[float, float, float]], radius: float
) -> tuple[float, float] | None:
    for _ in range(40):
        r, a = 0.165 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        x, y = float(r * np.cos(a)), float(r * np.sin(a))
        if all(np.hypot(x - cx, y - cy) > radius + cr + _GAP for cx, cy, cr in circles):
            return x, y
    return None


def _stand(kind: str, color: str, shape: Mesh, spot: tuple[float, float], turn: float) -> SimObject:
    c, s = np.cos(turn), np.sin(turn)
    T = np.eye(4)
    T[:2, :2] = [[c, -s], [s, c]]
    T[:2, 3] = spot
    return SimObject(kind, color, T, shape.moved(T))
