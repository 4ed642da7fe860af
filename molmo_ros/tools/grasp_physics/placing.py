"""Things put on a table with a given gap between their footprints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import ConvexHull

from molmo_ros.datatypes import Array
from molmo_ros.sim.mesh import Mesh
from molmo_ros.sim.scene import SimObject

TRIES = 60


def footprint(shape: Mesh) -> Array:
    """Return the convex outline (N,2) m of a mesh seen from above, counter-clockwise."""
    flat = shape.vertices[:, :2]
    return np.asarray(flat[ConvexHull(flat).vertices])


def distance(a: Array, b: Array) -> float:
    """Return the gap in m between two convex outlines (N,2), (M,2); 0 if they overlap."""
    if _overlap(a, b):
        return 0.0
    return min(_point_to_edges(a, b), _point_to_edges(b, a))


def put(kind: str, color: str, shape: Mesh, x: float, y: float, turn: float) -> SimObject:
    """Stand a thing (its mesh in its own frame) at (x, y) m, turned by turn rad."""
    c, s = np.cos(turn), np.sin(turn)
    T = np.eye(4)
    T[:2, :2] = [[c, -s], [s, c]]
    T[:2, 3] = x, y
    return SimObject(kind, color, T, shape.moved(T))


def beside(
    kind: str,
    color: str,
    shape: Mesh,
    placed: list[SimObject],
    gap: tuple[float, float],
    rng: np.random.Generator,
) -> SimObject | None:
    """Put a thing beside one that stands, at a gap (m) drawn from a range; no gap becomes smaller than that.

    Returns None if no place was found.
    """
    outlines = [footprint(o.mesh) for o in placed]
    for _ in range(TRIES):
        anchor = outlines[int(rng.integers(len(outlines)))]
        wanted, turn, way = rng.uniform(*gap), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
        thing = put(kind, color, shape, 0.0, 0.0, turn)
        own = footprint(thing.mesh)
        direction = np.array([np.cos(way), np.sin(way)])
        spot = anchor.mean(axis=0) + direction * _slide(own, anchor, direction, wanted)
        if all(distance(own + spot, other) >= min(wanted, gap[0]) - 1e-4 for other in outlines):
            return put(kind, color, shape, float(spot[0]), float(spot[1]), turn)
    return None


def nearest_gap(index: int, placed: Sequence[SimObject]) -> float:
    """Return the gap in m between a thing and the nearest other one; inf if it stands alone."""
    own = footprint(placed[index].mesh)
    gaps = [distance(own, footprint(o.mesh)) for i, o in enumerate(placed) if i != index]
    return min(gaps, default=float("inf"))


def _slide(own: Array, anchor: Array, direction: Array, gap: float) -> float:
    """How far from the anchor's middle along direction an outline has the wanted gap: bisection."""
    near, far = 0.0, 0.6
    start = anchor.mean(axis=0)
    for _ in range(26):
        middle = (near + far) / 2
        if distance(own + start + middle * direction, anchor) < gap:
            near = middle
        else:
            far = middle
    return far


def _overlap(a: Array, b: Array) -> bool:
    """Separating axis test of two convex outlines."""
    for outline in (a, b):
        edge = np.roll(outline, -1, axis=0) - outline
        normal = np.stack([edge[:, 1], -edge[:, 0]], axis=1)
        pa, pb = normal @ a.T, normal @ b.T
        if np.any((pa.min(axis=1) > pb.max(axis=1)) | (pb.min(axis=1) > pa.max(axis=1))):
            return False
    return True


def _point_to_edges(points: Array, outline: Array) -> float:
    start, edge = outline, np.roll(outline, -1, axis=0) - outline
    rel = points[:, None] - start[None]
    t = np.clip((rel * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-12), 0, 1)
    return float(np.linalg.norm(rel - t[..., None] * edge, axis=-1).min())
