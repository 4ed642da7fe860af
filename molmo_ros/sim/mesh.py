"""Triangle meshes of revolution, swept tubes and boxes: everything the simulated objects are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.sim.solids import lathe_solids, tube_solids

_SMOOTH_COS = np.cos(np.radians(40.0))  # profile corners sharper than this keep a hard edge


@dataclass(frozen=True)
class Mesh:
    """vertices (V,3) m; normals (V,3) unit, outward; faces (F,3); parts (F,) index into a palette.

    solids: the same body as convex pieces, the corners (K,3) of each, for physics; hollow things stay hollow.
    """

    vertices: Array
    normals: Array
    faces: np.ndarray
    parts: np.ndarray
    solids: tuple[Array, ...] = ()

    def moved(self, T: Array) -> Mesh:
        """The mesh in another frame; T (4,4) rigid."""
        R = T[:3, :3]
        solids = tuple(s @ R.T + T[:3, 3] for s in self.solids)
        return Mesh(self.vertices @ R.T + T[:3, 3], self.normals @ R.T, self.faces, self.parts, solids)


def join(*meshes: Mesh) -> Mesh:
    """One mesh of several."""
    offsets = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.faces + o for m, o in zip(meshes, offsets, strict=True)]),
        np.concatenate([m.parts for m in meshes]),
        tuple(s for m in meshes for s in m.solids),
    )


def grid_faces(rows: int, cols: int) -> np.ndarray:
    """Two triangles for each cell of a (rows, cols) vertex grid, (2*(rows-1)*(cols-1), 3)."""
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(cols - 1), indexing="ij")
    a = (i * cols + j).ravel()
    b, c, d = a + 1, a + cols, a + cols + 1
    return np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])


def lathe(profile: list[tuple[float, float]], parts: list[int], segments: int = 40) -> Mesh:
    """Revolve a profile of (radius, z) about z.

    The profile runs up the outside, over the rim and down the inside, so that normals point outward;
    parts[i] colours the ring between profile points i and i+1.
    """
    p = np.asarray(profile, float)
    direction = np.diff(p, axis=0)
    normal = np.stack([direction[:, 1], -direction[:, 0]], 1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    around = np.stack([np.cos(angle), np.sin(angle)], 1)
    rings = []
    for i in range(len(normal)):
        ends = []
        for neighbour in (i - 1, i + 1):
            smooth = 0 <= neighbour < len(normal) and normal[i] @ normal[neighbour] > _SMOOTH_COS
            n = normal[i] + normal[neighbour] if smooth else normal[i]
            ends.append(n / np.linalg.norm(n))
        radius, z = p[i : i + 2, 0], p[i : i + 2, 1]
        vertices = np.concatenate(
            [np.c_[r * around, np.full(len(around), h)] for r, h in zip(radius, z, strict=True)]
        )
        normals = np.concatenate([np.c_[n[0] * around, np.full(len(around), n[1])] for n in ends])
        faces = grid_faces(2, segments + 1)
        rings.append(Mesh(vertices, normals, faces, np.full(len(faces), parts[i], np.uint8)))
    return replace(join(*rings), solids=lathe_solids(p, segments))


def tube(path: Array, radii: Array, parts: np.ndarray, segments: int = 16) -> Mesh:
    """Sweep circles of radii (P,) along path (P,3); parts (P-1,) colours each piece; the ends are closed."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    spread = np.ptp(path, axis=0)
    binormal = np.eye(3)[int(np.argmin(spread))]  # the paths are planar: their thin axis is the binormal
    side = np.cross(binormal, tangent)
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    normals = side[:, None] * np.cos(angle)[None, :, None] + binormal * np.sin(angle)[None, :, None]
    vertices = path[:, None] + radii[:, None, None] * normals
    faces = grid_faces(len(path), segments + 1)
    face_parts = np.concatenate([np.repeat(parts, segments)] * 2).astype(np.uint8)
    body = Mesh(vertices.reshape(-1, 3), normals.reshape(-1, 3), faces, face_parts)
    caps = [
        _fan(vertices[0], path[0], -tangent[0], int(parts[0])),
        _fan(vertices[-1], path[-1], tangent[-1], int(parts[-1])),
    ]
    return replace(join(body, *caps), solids=tube_solids(vertices))


def _fan(ring: Array, centre: Array, normal: Array, part: int) -> Mesh:
    """A disc that closes a tube."""
    n = len(ring)
    faces = np.stack([np.full(n - 1, n), np.arange(n - 1), np.arange(1, n)], 1)
    vertices = np.concatenate([ring, centre[None]])
    return Mesh(vertices, np.tile(normal, (n + 1, 1)), faces, np.full(len(faces), part, np.uint8))


def box(size: tuple[float, float, float], stripe: float = 0.0) -> Mesh:
    """A box on z = 0. stripe: share of the width that a band of part 1 takes over top, front and back."""
    sx, sy, sz = size
    xs = np.array([-0.5, -stripe / 2, stripe / 2, 0.5]) * sx if stripe else np.array([-0.5, 0.5]) * sx
    y, quads = sy / 2, []
    for i in range(len(xs) - 1):
        part = 1 if stripe and i == 1 else 0
        a, b = xs[i], xs[i + 1]
        quads += [
            _quad([(a, -y, sz), (b, -y, sz), (b, y, sz), (a, y, sz)], (0, 0, 1), part),
            _quad([(a, -y, 0), (b, -y, 0), (b, -y, sz), (a, -y, sz)], (0, -1, 0), part),
            _quad([(a, y, 0), (b, y, 0), (b, y, sz), (a, y, sz)], (0, 1, 0), part),
            _quad([(a, -y, 0), (b, -y, 0), (b, y, 0), (a, y, 0)], (0, 0, -1), 0),
        ]
    for x in (-sx / 2, sx / 2):
        quads.append(_quad([(x, -y, 0), (x, y, 0), (x, y, sz), (x, -y, sz)], (np.sign(x), 0, 0), 0))
    whole = join(*quads)
    return replace(whole, solids=(np.unique(whole.vertices, axis=0),))


def _quad(corners: list[tuple[float, float, float]], normal: tuple[float, float, float], part: int) -> Mesh:
    return Mesh(
        np.asarray(corners, float),
        np.tile(np.asarray(normal, float), (4, 1)),
        np.array([[0, 1, 2], [0, 2, 3]]),
        np.full(2, part, np.uint8),
    )
