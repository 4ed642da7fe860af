"""Ways to hold an object with two fingers, before it is checked whether there is room for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Array, Index, Mask
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.perception.complete import Shape
from molmo_ros.perception.outline import rectangle_angle
from molmo_ros.transforms import unit

Number = TypeVar("Number", bound=np.generic)
FRICTION_CONE_DEG = 28.0  # of a rubber pad, mu = 0.53
PAIR_TILTS_DEG = (0.0, 30.0, -30.0, 60.0, -60.0)
LEANS_DEG, LEANING_TILTS_DEG = (25.0, -25.0), (0.0, 30.0, -30.0)
LEVEL = np.sin(np.radians(20.0))
TOP_ANGLES = 12
TOP_DEPTHS = (0.012, 0.024, 0.038)
PAIRS = 64
FIRSTS, SECONDS = 110, 500  # seen points at which a pair may begin, and points at which it may end
MOST_PAIRS = 2500


@dataclass(frozen=True)
class Candidates:
    """C grasps in the support frame.

    rotation (C,3,3) has the axes x, y (closing), z (approach) as columns; contact (C,3) m is the middle
    between the expected contacts; half (C,) m half their distance, 0 if unknown; depth (C,) m how far
    the tips reach beyond `contact`; cosine (C,) of the worse contact's normal to y, as far as known.
    """

    rotation: Array
    contact: Array
    half: Array
    depth: Array
    cosine: Array

    def __len__(self) -> int:
        return len(self.half)

    def take(self, index: Index | Mask | slice) -> Candidates:
        """Return a selection of them."""
        return Candidates(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Candidates]) -> Candidates:
        """Concatenate some, at least one."""
        return Candidates(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Candidates)))


def pair_candidates(shape: Shape, gripper: Gripper) -> Candidates:
    """Find pairs of opposite surface points, one of them seen, and tilt the hand about their axis.

    Source: Chen and Burdick 1993, antipodal points: the line between the contacts lies in both friction
    cones.
    """
    y, contact, half, cosine = _opposite(shape, gripper)
    rotation = _tilted(y, _down_across(y), PAIR_TILTS_DEG)
    return _by_pads(rotation, contact, half, cosine, gripper)


def leaning_candidates(shape: Shape, gripper: Gripper) -> Candidates:
    """Hold the same pairs by the fingertips, with a hand that leans towards either finger.

    That avoids neighbours, but holds less well.
    """
    y, contact, half, cosine = _opposite(shape, gripper)
    z = _down_across(y)
    angle = np.radians(LEANS_DEG)
    c, s = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
    closing = (c * y[:, None] - s * z[:, None]).reshape(-1, 3)
    approach = (c * z[:, None] + s * y[:, None]).reshape(-1, 3)
    rotation = _tilted(closing, approach, LEANING_TILTS_DEG)
    return _by_pads(rotation, contact, half, cosine, gripper)


def _by_pads(rotation: Array, contact: Array, half: Array, cosine: Array, gripper: Gripper) -> Candidates:
    """Hold pairs (P,...) with the middle of the pads, each in its share of the rotations (C,3,3)."""
    pair = np.repeat(np.arange(len(half)), len(rotation) // max(len(half), 1))
    depth = np.full(len(rotation), gripper.pad_length / 2)
    return Candidates(rotation, contact[pair], half[pair], depth, cosine[pair])


def _opposite(shape: Shape, gripper: Gripper) -> tuple[Array, Array, Array, Array]:
    """Return, for pairs of opposite points, the axis (P,3), the middle (P,3) m, half the distance (P,) m and
    the cosine (P,) of the worse normal to the axis.
    """
    i, j, cosine = _antipodal_pairs(shape, 0.004, gripper.max_opening - 0.004)
    axis = shape.points[j] - shape.points[i]
    half = np.linalg.norm(axis, axis=1) / 2
    y = axis / (2 * half[:, None])
    # well within the friction cone a level hand is as good, and gets closer to the table
    y = unit(np.where(np.abs(y[:, 2:]) < LEVEL, y * [1.0, 1.0, 0.0], y))
    return y, (shape.points[i] + shape.points[j]) / 2, half, cosine


def _antipodal_pairs(shape: Shape, nearest: float, farthest: float) -> tuple[Index, Index, Array]:
    """Return the indices of at most PAIRS diverse antipodal pairs (i seen, j any), and their worse cosine."""
    first = thinned(np.flatnonzero(shape.seen), FIRSTS)
    second = thinned(np.arange(len(shape.points)), SECONDS)
    p, n = shape.points[first].astype(np.float32), shape.normals[first].astype(np.float32)
    q, m = shape.points[second].astype(np.float32), shape.normals[second].astype(np.float32)
    # d = q - p, and its projections on both normals, without ever forming (I,J,3)
    square = np.sum(p**2, axis=1)[:, None] + np.sum(q**2, axis=1) - 2 * p @ q.T
    distance = np.sqrt(np.maximum(square, 1e-12))
    on_i = n @ q.T - np.sum(n * p, axis=1)[:, None]
    on_j = np.sum(m * q, axis=1) - p @ m.T
    cosine = np.minimum(-on_i, on_j) / distance
    good = (cosine > np.cos(np.radians(FRICTION_CONE_DEG))) & (distance > nearest) & (distance < farthest)
    a, b = thinned(np.argwhere(good), MOST_PAIRS).T
    i, j = first[a], second[b]
    # nearly level axes first: a hand cannot come from below
    level = 1 - np.abs(q[b, 2] - p[a, 2]) / distance[a, b]
    some = _diverse(shape.points, i, j, cosine[a, b] + 0.1 * level + 0.03 * shape.seen[j])
    return i[some], j[some], cosine[a, b][some]


def thinned(values: npt.NDArray[Number], at_most: int) -> npt.NDArray[Number]:
    """Return about at_most of the values (N,...), evenly spread."""
    return values[:: max(1, round(len(values) / at_most))]


def _diverse(points: Array, i: Index, j: Index, quality: Array) -> Index:
    """Choose the best pair of each cell of position (12 mm) and direction, then PAIRS of these."""
    order = np.argsort(-quality)
    i, j = i[order], j[order]
    d = points[j] - points[i]
    angle = np.arctan2(d[:, 1], d[:, 0]) % np.pi
    steep = np.abs(d[:, 2]) > 0.6 * np.linalg.norm(d, axis=1)
    cell = np.stack([*np.floor((points[i] + points[j]) / 0.024).T, np.floor(angle / (np.pi / 8)), steep])
    cell = cell.astype(np.int64) + 512
    key = (((cell[0] * 1024 + cell[1]) * 1024 + cell[2]) * 16 + cell[3]) * 2 + cell[4]
    first = np.sort(np.unique(key, return_index=True)[1])
    if len(first) > PAIRS:  # half of them the best, half from everywhere
        rest = first[PAIRS // 2 :]
        spread = rest[:: max(1, len(rest) // (PAIRS // 2))][: PAIRS // 2]
        first = np.concatenate([first[: PAIRS // 2], spread])
    return order[first]


def top_candidates(shape: Shape, click: Array, gripper: Gripper) -> Candidates:
    """Approach straight down at the click and at the middle, in TOP_ANGLES directions and along the box."""
    middle = shape.points.mean(axis=0)
    top = np.array([[*spot[:2], _top_at(shape, spot)] for spot in (click, middle)])
    flush = rectangle_angle(shape.points[:, :2]) + np.array([0.0, np.pi / 2])
    angle = np.concatenate([np.arange(TOP_ANGLES) * np.pi / TOP_ANGLES, flush])
    y = np.stack([np.cos(angle), np.sin(angle), np.zeros(len(angle))], axis=1)
    # a ball is held at its equator, or a little below
    depths = np.minimum((*TOP_DEPTHS, 0.6 * float(top[1, 2])), gripper.finger_length - 0.006)
    rotation = _tilted(y, np.broadcast_to([0.0, 0.0, -1.0], y.shape), (0.0,))
    spot, turn, reach = (g.ravel() for g in np.meshgrid(range(2), range(len(angle)), depths, indexing="ij"))
    # what has flat sides is best held flush with them
    likely = np.where(np.arange(len(angle)) < TOP_ANGLES, 0.7, 1.0)
    return Candidates(rotation[turn], top[spot], np.zeros(len(spot)), reach, likely[turn])


def _top_at(shape: Shape, spot: Array) -> float:
    """Return the height of the object around spot (3,) m."""
    near = np.linalg.norm(shape.points[:, :2] - spot[:2], axis=1) < 0.012
    return float(shape.points[near, 2].max()) if near.any() else float(shape.points[:, 2].max())


def _down_across(y: Array) -> Array:
    """Return the direction (C,3) nearest to straight down that is perpendicular to y (C,3).

    A level direction where y is steep: a hand that closes vertically comes from the side.
    """
    down = np.array([0.0, 0.0, -1.0]) + y[:, 2:] * y
    side = np.stack([-y[:, 1], y[:, 0] + 1e-9, np.zeros(len(y))], axis=1)  # any, where y is vertical
    steep = np.einsum("nc,nc->n", down, down) < 0.2**2
    return unit(np.where(steep[:, None], side, down))


def _tilted(y: Array, z: Array, tilts_deg: tuple[float, ...]) -> Array:
    """Return rotations (C*tilts,3,3) of hands that close along y (C,3) and approach along z, tilted about
    y."""
    x = np.cross(y, z)
    angle = np.radians(tilts_deg)
    c, s = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
    approach = c * z[:, None] + s * x[:, None]
    closing = np.broadcast_to(y[:, None], approach.shape)
    return np.stack([c * x[:, None] - s * z[:, None], closing, approach], axis=-1).reshape(-1, 3, 3)
