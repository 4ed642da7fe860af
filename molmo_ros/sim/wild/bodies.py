"""Building blocks of unseen shapes: superquadrics, lumps, lathes of random profiles, rods between points."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim import mesh
from molmo_ros.sim.mesh import Mesh

SEGMENTS = 28


def superquadric(half: Array, e1: float, e2: float, part: int = 0) -> Mesh:
    """A superquadric with half axes (3,) m about the origin; exponents: 0 a box, 1 an ellipsoid, 2 a pyramid.

    Source: A. Barr, "Superquadrics and angle-preserving transformations", 1981.
    """
    eta = np.linspace(-np.pi / 2, np.pi / 2, 17)[:, None]
    omega = np.linspace(-np.pi, np.pi, 33)[None]
    points = _on(half, eta, omega, e1, e2)
    away = _on(1 / half, eta, omega, 2 - e1, 2 - e2)
    return _closed_grid(points, away, part)


def lump(rng: np.random.Generator, size: Array, roughness: float) -> Mesh:
    """A soft heap as of cloth or a filled bag, extents size (3,) m, on z = 0: a squashed, dented ball."""
    eta = np.linspace(-np.pi / 2, np.pi / 2, 21)[:, None]
    omega = np.linspace(-np.pi, np.pi, 41)[None]
    way = _on(np.ones(3), eta, omega, rng.uniform(0.5, 1.0), rng.uniform(0.6, 1.0))
    reach = np.ones(way.shape[:2])
    for _ in range(int(rng.integers(4, 12))):
        ridge = rng.normal(size=3) * rng.uniform(1.5, 7.0)
        wave = np.sin(way @ ridge + rng.uniform(0, 2 * np.pi))
        reach = reach + roughness * rng.uniform(0.3, 1.0) * wave / max(float(np.linalg.norm(ridge)) / 2, 1.0)
    points = way * reach[..., None]
    points[..., 2] = np.where(points[..., 2] < 0, 0.25 * points[..., 2], points[..., 2])  # it sags
    points = (points - points.min(axis=(0, 1))) / np.ptp(points, axis=(0, 1)) * size
    points[..., :2] -= size[:2] / 2
    return _closed_grid(points, None, 0)


def revolved(profile: list[tuple[float, float]], parts: list[int], segments: int = SEGMENTS) -> Mesh:
    """A lathe of a profile whose points must differ."""
    return mesh.lathe([(float(r), float(z)) for r, z in profile], parts, segments)


def rod(start: Array, end: Array, r0: float, r1: float | None = None, part: int = 0) -> Mesh:
    """A round rod between two points (3,) m, radii in m at both ends."""
    length = float(np.linalg.norm(end - start))
    r1 = r0 if r1 is None else r1
    whole = revolved([(0, 0), (r0, 0), (r1, length), (0, length)], [part] * 3, 20)
    return whole.moved(frame_along((end - start) / length, start))


def bar(size: tuple[float, float, float], T: Array, part: int = 0) -> Mesh:
    """A box of a size (m), its middle and axes as of T (4,4)."""
    whole = as_part(mesh.box(size), part)
    return whole.moved(T @ shift(0.0, 0.0, -size[2] / 2))


def as_part(m: Mesh, part: int) -> Mesh:
    """The same mesh, all of it one part."""
    return Mesh(m.vertices, m.normals, m.faces, np.full_like(m.parts, part), m.solids)


def shift(x: float, y: float, z: float) -> Array:
    """A translation (4,4) in m."""
    T = np.eye(4)
    T[:3, 3] = x, y, z
    return T


def turned(axis: int, angle: float) -> Array:
    """A rotation (4,4) about a coordinate axis by an angle in rad."""
    c, s = np.cos(angle), np.sin(angle)
    T = np.eye(4)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    T[i, i], T[i, j], T[j, i], T[j, j] = c, -s, s, c
    return T


def frame_along(z: Array, origin: Array) -> Array:
    """A pose (4,4) whose z axis is the unit vector z (3,)."""
    x = np.cross(np.eye(3)[int(np.argmin(np.abs(z)))], z)
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
    T[:3, 3] = origin
    return T


def scaled(m: Mesh, factor: float) -> Mesh:
    """The mesh grown by a factor about its origin."""
    return Mesh(m.vertices * factor, m.normals, m.faces, m.parts, tuple(s * factor for s in m.solids))


def stretched(m: Mesh, factors: Array) -> Mesh:
    """The mesh stretched along its axes by factors (3,); without solids, the normals as they are."""
    return Mesh(m.vertices * factors, m.normals, m.faces, m.parts)


def _on(half: Array, eta: Array, omega: Array, e1: float, e2: float) -> Array:
    """Points (R,C,3) of a superquadric surface at latitudes eta (R,1) and longitudes omega (1,C)."""

    def power(value: Array, exponent: float) -> Array:
        return np.asarray(np.sign(value) * np.where(np.abs(value) < 1e-9, 0.0, np.abs(value)) ** exponent)

    around = power(np.cos(eta), e1)
    ones = np.ones_like(omega)
    return np.stack(
        [
            half[0] * around * power(np.cos(omega), e2),
            half[1] * around * power(np.sin(omega), e2),
            half[2] * power(np.sin(eta), e1) * ones,
        ],
        axis=-1,
    )


def _closed_grid(points: Array, normals: Array | None, part: int) -> Mesh:
    """A mesh of a grid (R,C,3) that closes in its columns; its convex hull is its one solid."""
    rows, cols = points.shape[:2]
    faces = mesh.grid_faces(rows, cols)
    vertices = points.reshape(-1, 3)
    if normals is None:
        normals = _grid_normals(points)
    flat = normals.reshape(-1, 3)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    return Mesh(vertices, flat, faces, np.full(len(faces), part, np.uint8), (vertices,))


def _grid_normals(points: Array) -> Array:
    """Outward normals (R,C,3) of a grid around the origin's side, by central differences."""
    wrapped = np.concatenate([points[:, -2:-1], points, points[:, 1:2]], axis=1)
    across = wrapped[:, 2:] - wrapped[:, :-2]
    along = np.gradient(points, axis=0)
    normal = np.cross(across, along)
    outward = (normal * (points - points.mean(axis=(0, 1)))).sum(-1).mean()
    normal = normal if outward > 0 else -normal
    poor = np.linalg.norm(normal, axis=-1) < 1e-12
    normal[poor] = (points - points.mean(axis=(0, 1)))[poor]
    return np.asarray(normal)
