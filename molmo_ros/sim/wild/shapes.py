"""Shapes on which nothing was tuned: each kind an endless family, an individual drawn from its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim import more_objects, objects
from molmo_ros.sim.mesh import Mesh
from molmo_ros.sim.wild import boxes, tools, vessels
from molmo_ros.sim.wild.bodies import scaled, shift
from molmo_ros.sim.wild.stable import stable_poses

LIMITS_M = (0.02, 0.30)  # of the longest side
_KEPT = 2500
_POINT_AREA_M2 = 2.5e-5


@dataclass(frozen=True)
class Shape:
    """kind; mesh in its own frame (z up, standing on z = 0).

    poses: (P,4,4) in which it rests on a table, the one as made first if it is one; shares: (P,) how likely
    each is. points: (N,3) m, all over its surface. hollow: things can lie in it as it was made; round:
    made on a lathe.
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
    weights = np.stack([1 - a, a * (1 - b), a * b], axis=1)
    return np.asarray(np.einsum("nc,ncd->nd", weights, corners[face]))


def _known(kind: str) -> Callable[[np.random.Generator], Mesh]:
    return lambda rng: _on_table(more_objects.make(kind, rng))


def _on_table(m: Mesh) -> Mesh:
    return m.moved(shift(0, 0, -float(m.vertices[:, 2].min())))


_OWN: dict[str, Callable[[np.random.Generator], Mesh]] = {
    "cup": vessels.cup,
    "handled_cup": vessels.handled,
    "dish": vessels.dish,
    "flask": vessels.flask,
    "tin": vessels.can,
    "pin": vessels.pin,
    "carton": boxes.carton,
    "parcel": boxes.parcel,
    "soft_box": boxes.soft_box,
    "quadric": boxes.quadric,
    "lidded": boxes.lidded,
    "brick": boxes.brick,
    "drill": tools.drill,
    "hammer": tools.hammer,
    "tool": tools.tool,
    "driver": tools.driver,
    "cable": tools.cable,
    "ring": vessels.ring,
    "bag": boxes.bag,
    "cloth": boxes.cloth,
    "union": tools.union,
    "pot": vessels.pot,
    "tray": boxes.tray,
}
_KNOWN = (*objects.KINDS, *more_objects.THIN, *more_objects.NOVEL, *more_objects.WIDE)
_MAKERS = {**_OWN, **{k: _known(k) for k in _KNOWN}}
OWN_KINDS = tuple(_OWN)
KINDS = tuple(_MAKERS)
HOLLOW = ("cup", "handled_cup", "dish", "pot", "tray", "mug", "bowl", "tumbler")
ROUND = ("cup", "flask", "tin", "pin", "can", "bottle", "jar", "tumbler")
