"""Ways to hold an object with two fingers, before anybody asks whether there is room for them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from molmo_ros.cloud import Index
from molmo_ros.complete import Shape, Views, rectangle_angle
from molmo_ros.datatypes import Array, Mask
from molmo_ros.gripper import Gripper
from molmo_ros.transforms import unit

FRICTION_CONE_DEG = 28.0  # of a rubber pad, mu = 0.53
PAIR_TILTS_DEG = (0.0, 30.0, -30.0, 60.0, -60.0)
LEVEL = np.sin(np.radians(15.0))
TOP_ANGLES = 12
TOP_DEPTHS = (0.012, 0.024, 0.038)
RIM_TILTS_DEG = (0.0, 25.0, -25.0)
PAIRS = 64
FIRSTS = 200  # seen points that a pair may begin at
MOST_PAIRS = 8000
RIMS = 20


@dataclass(frozen=True)
class Candidates:
    """C grasps in the support frame.

    rotation (C,3,3) has the axes x, y (closing), z (approach) as columns; contact (C,3) m is the middle
    between the expected contacts; half (C,) m half their distance, 0 if unknown; depth (C,) m how far
    the tips reach beyond `contact`.
    """

    rotation: Array
    contact: Array
    half: Array
    depth: Array

    def __len__(self) -> int:
        return len(self.half)

    def take(self, index: Index | Mask) -> Candidates:
        """Return a choice of them."""
        return Candidates(self.rotation[index], self.contact[index], self.half[index], self.depth[index])


def propose(views: Views, click: Array, gripper: Gripper) -> Candidates:
    """Collect pair, top and rim candidates for a shape clicked at (3,) m."""
    parts = [
        pair_candidates(views.coarse, gripper),
        top_candidates(views.coarse, click, gripper),
        rim_candidates(views, click),
    ]
    return Candidates(
        rotation=np.concatenate([p.rotation for p in parts]),
        contact=np.concatenate([p.contact for p in parts]),
        half=np.concatenate([p.half for p in parts]),
        depth=np.concatenate([p.depth for p in parts]),
    )


def pair_candidates(shape: Shape, gripper: Gripper) -> Candidates:
    """Find pairs of opposite surface points, one of them seen, and tilt the hand about their axis.

    Source: Chen and Burdick 1993, antipodal points: the line between the contacts lies in both friction
    cones.
    """
    i, j = _antipodal_pairs(shape, 0.004, gripper.max_opening - 0.004)
    axis = shape.points[j] - shape.points[i]
    half = np.linalg.norm(axis, axis=1) / 2
    y = axis / (2 * half[:, None])
    # well within friction a level hand is as good, and comes closer to the table
    y = np.where(np.abs(y[:, 2:]) < LEVEL, unit(y * [1.0, 1.0, 0.0]), y)
    contact = (shape.points[i] + shape.points[j]) / 2
    rotation = _tilted(y, _down_across(y), PAIR_TILTS_DEG)
    repeat = len(PAIR_TILTS_DEG)
    half = np.repeat(half, repeat)
    depth = np.full(len(half), gripper.pad_length / 2)
    return Candidates(rotation, np.repeat(contact, repeat, axis=0), half, depth)


def _antipodal_pairs(shape: Shape, nearest: float, farthest: float) -> tuple[Index, Index]:
    """Return the indices of at most PAIRS diverse antipodal pairs (i seen, j any)."""
    points, n = shape.points.astype(np.float32), shape.normals.astype(np.float32)
    first = np.flatnonzero(shape.seen)
    first = first[:: 1 + len(first) // FIRSTS]
    # d = p_j - p_i, and its projections on both normals, without ever forming (I,J,3)
    square = np.sum(points**2, axis=1)
    distance = np.sqrt(np.maximum(square[first, None] + square[None] - 2 * points[first] @ points.T, 1e-12))
    on_i = n[first] @ points.T - np.sum(n[first] * points[first], axis=1)[:, None]
    on_j = np.sum(n * points, axis=1)[None] - points[first] @ n.T
    cosine = np.minimum(-on_i, on_j) / distance
    good = (cosine > np.cos(np.radians(FRICTION_CONE_DEG))) & (distance > nearest) & (distance < farthest)
    a, j = np.nonzero(good)
    once = ~shape.seen[j] | (first[a] < j)  # not (i, j) and (j, i)
    a, j = a[once], j[once]
    if len(a) > MOST_PAIRS:
        a, j = a[:: len(a) // MOST_PAIRS], j[:: len(j) // MOST_PAIRS]
    i = first[a]
    # near to level axes first: a hand cannot come from below
    level = 1 - np.abs(points[j, 2] - points[i, 2]) / distance[a, j]
    return _diverse(shape.points, i, j, cosine[a, j] + 0.1 * level + 0.03 * shape.seen[j])


def _diverse(points: Array, i: Index, j: Index, quality: Array) -> tuple[Index, Index]:
    """Keep the best pair of each cell of position (12 mm) and direction, then the best PAIRS, spread out."""
    order = np.argsort(-quality)
    i, j = i[order], j[order]
    d = points[j] - points[i]
    angle = np.arctan2(d[:, 1], d[:, 0]) % np.pi
    steep = np.abs(d[:, 2]) > 0.6 * np.linalg.norm(d, axis=1)
    cell = np.stack([*np.floor((points[i] + points[j]) / 0.024).T, np.floor(angle / (np.pi / 8)), steep])
    cell = cell.astype(np.int64) + 512
    key = (((cell[0] * 1024 + cell[1]) * 1024 + cell[2]) * 16 + cell[3]) * 2 + cell[4]
    first = np.sort(np.unique(key, return_index=True)[1])
    if len(first) > PAIRS:  # half the best, half from all over
        rest = first[PAIRS // 2 :]
        spread = rest[:: max(1, len(rest) // (PAIRS // 2))][: PAIRS // 2]
        first = np.concatenate([first[: PAIRS // 2], spread])
    return i[first], j[first]


def top_candidates(shape: Shape, click: Array, gripper: Gripper) -> Candidates:
    """Come straight down at the click and at the middle, in TOP_ANGLES directions and along the box."""
    middle = shape.points.mean(axis=0)
    top = np.array([[*spot[:2], _top_at(shape, spot)] for spot in (click, middle)])
    flush = rectangle_angle(shape.points[:, :2]) + np.array([0.0, np.pi / 2])
    angle = np.concatenate([np.arange(TOP_ANGLES) * np.pi / TOP_ANGLES, flush])
    y = np.stack([np.cos(angle), np.sin(angle), np.zeros(len(angle))], axis=1)
    # a ball is held at its equator, or a little below
    depths = np.minimum((*TOP_DEPTHS, 0.6 * float(top[1, 2])), gripper.finger_length - 0.006)
    rotation = _tilted(y, np.broadcast_to([0.0, 0.0, -1.0], y.shape), (0.0,))
    spot, turn, reach = (g.ravel() for g in np.meshgrid(range(2), range(len(angle)), depths, indexing="ij"))
    return Candidates(rotation[turn], top[spot], np.zeros(len(spot)), reach)


def rim_candidates(views: Views, click: Array) -> Candidates:
    """Straddle thin upper edges: the rim of a bowl or a mug, a handle."""
    coarse, dense = views.coarse, views.dense
    edge, across = _thin_tops(coarse.points[coarse.seen], dense.points[dense.seen], 0.012)
    if len(edge) > RIMS:
        near_first = np.argsort(np.linalg.norm(edge - click, axis=1))
        edge, across = edge[near_first], across[near_first]
        spread = np.linspace(RIMS // 2, len(edge) - 1, RIMS // 2).astype(np.intp)
        keep = np.concatenate([np.arange(RIMS // 2), spread])
        edge, across = edge[keep], across[keep]
    rotation = _leaning(across, RIM_TILTS_DEG)
    count = len(rotation)
    return Candidates(
        rotation, np.repeat(edge, len(RIM_TILTS_DEG), axis=0), np.full(count, 0.002), np.full(count, 0.012)
    )


def _thin_tops(points: Array, among: Array, radius: float) -> tuple[Array, Array]:
    """Find local tops (E,3) that are thin in a horizontal direction; return them and that direction (E,3).

    Looks at the neighbours of points (N,3) within radius m among a denser cloud (M,3).
    """
    points = points[_may_be_top(points, radius)]
    k = min(48, len(among))
    distance, index = cKDTree(among).query(points, k=k, distance_upper_bound=radius)
    near = np.isfinite(distance)
    around = among[np.where(near, index, 0)]
    local_top = points[:, 2] > np.where(near, around[..., 2], -np.inf).max(axis=1) - 0.004
    high = near & (around[..., 2] > points[:, 2, None] - 0.008)
    count = np.maximum(high.sum(axis=1), 1)
    mean = np.where(high[..., None], around, 0.0).sum(axis=1) / count[:, None]
    centred = np.where(high[..., None], around - mean[:, None], 0.0)[..., :2]
    values, vectors = np.linalg.eigh(np.swapaxes(centred, 1, 2) @ centred / count[:, None, None])
    deviation = np.sqrt(np.maximum(values, 0))
    thin = local_top & (count >= 8) & (deviation[:, 0] < 0.0035) & (deviation[:, 1] > 1.8 * deviation[:, 0])
    across = np.concatenate([vectors[thin, :, 0], np.zeros((np.count_nonzero(thin), 1))], axis=1)
    return np.concatenate([mean[thin, :2], points[thin, 2:]], axis=1), across


def _may_be_top(points: Array, radius: float) -> Mask:
    """Leave out points (N,3) beside which, in the cells of radius m around, there are much higher ones."""
    column, row = np.floor((points[:, :2] - points[:, :2].min(axis=0)) * 2 / radius).astype(np.intp).T + 1
    highest = np.full((int(row.max()) + 2, int(column.max()) + 2), -1.0, dtype=np.float32)
    np.maximum.at(highest, (row, column), points[:, 2].astype(np.float32))
    return np.asarray(points[:, 2] > cv2.dilate(highest, np.ones((3, 3), np.uint8))[row, column] - 0.0041)


def _top_at(shape: Shape, spot: Array) -> float:
    """Return the height of the object around spot (3,) m."""
    near = np.linalg.norm(shape.points[:, :2] - spot[:2], axis=1) < 0.012
    return float(shape.points[near, 2].max()) if near.any() else float(shape.points[:, 2].max())


def _down_across(y: Array) -> Array:
    """Return the direction (C,3) nearest to straight down that is perpendicular to y (C,3)."""
    down = np.array([0.0, 0.0, -1.0]) + y[:, 2:] * y
    length = np.linalg.norm(down, axis=1, keepdims=True)
    side = np.stack([-y[:, 1], y[:, 0], np.zeros(len(y))], axis=1)
    return np.asarray(np.where(length > 0.2, down / np.maximum(length, 1e-9), side))


def _tilted(y: Array, z: Array, tilts_deg: tuple[float, ...]) -> Array:
    """Return rotations (C*tilts,3,3) of hands that close along y (C,3) and come along z, tilted about y."""
    x = np.cross(y, z)
    angle = np.radians(tilts_deg)
    c, s = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
    approach = c * z[:, None] + s * x[:, None]
    closing = np.broadcast_to(y[:, None], approach.shape)
    return np.stack([np.cross(closing, approach), closing, approach], axis=-1).reshape(-1, 3, 3)


def _leaning(across: Array, tilts_deg: tuple[float, ...]) -> Array:
    """Return rotations (C*tilts,3,3) from above that lean along `across` (C,3), as a slanting wall does."""
    down = np.array([0.0, 0.0, -1.0])
    angle = np.radians(tilts_deg)
    c, s = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
    y = c * across[:, None] - s * down
    z = c * down + s * across[:, None]
    return np.stack([np.cross(y, z), y, z], axis=-1).reshape(-1, 3, 3)
