"""Ray casting of a scene on the CPU (open3d's RaycastingScene, no GL): colour, clean depth, instance ids.

The shading is Lambert with a lamp that casts shadows, sky light from above and a small highlight.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from molmo_ros.datatypes import Array, Depth, Image
from molmo_ros.sim import mesh, objects
from molmo_ros.sim.scene import TABLE_SIZE, Light, Room, Scene, Table
from molmo_ros.sim.shading import Hits, expose, seen_through, shade_room, surface
from molmo_ros.sim.skin import TRANSPARENT

_TABLE, _FLOOR = 0, 1  # for scenes without a room
_HIT = ("geometry_ids", "primitive_ids", "primitive_uvs", "t_hit")


@dataclass(frozen=True)
class Render:
    """rgb (H,W,3) uint8; depth (H,W) m along z, NaN: nothing was hit; ids (H,W), 0: none, i: object i-1.

    material: (H,W) uint8, flags of skin.py: DARK, SHINY, TRANSPARENT (depth is that of the clear thing);
    all 0 in scenes without a room. behind: (H,W) m, the depth without clear things;
    None if none are in sight.
    """

    rgb: Image
    depth: Depth
    ids: np.ndarray
    material: np.ndarray
    behind: Depth | None = None


class Renderer:
    """Holds a scene's acceleration structure, so that several sizes or poses share it."""

    def __init__(self, scene: Scene, threads: int = 0) -> None:
        import open3d as o3d  # 1.3 s and 100 MB: only simulation pays for it

        self._scene, self._threads, self._o3d = scene, threads, o3d
        room = scene.room
        around = [f.mesh for f in room.fixtures] if room is not None else _plain_table()
        self._first_object = len(around)
        self._meshes = [*around, *(o.mesh for o in scene.objects)]
        self._caster = self._casting(range(len(self._meshes)))
        self._face_start = np.cumsum([0] + [len(m.faces) for m in self._meshes[:-1]])
        self._parts = np.concatenate([m.parts for m in self._meshes])
        self._corner_normals = np.concatenate([m.normals[m.faces] for m in self._meshes]).astype(np.float32)

    def _casting(self, which: Iterable[int]) -> Any:
        """An acceleration structure of some of the meshes."""
        caster = self._o3d.t.geometry.RaycastingScene(nthreads=self._threads)
        for i in which:
            m = self._meshes[i]
            caster.add_triangles(
                self._o3d.core.Tensor.from_numpy(np.ascontiguousarray(m.vertices, np.float32)),
                self._o3d.core.Tensor.from_numpy(np.ascontiguousarray(m.faces, np.uint32)),
            )
        return caster

    @cached_property
    def _palettes(self) -> np.ndarray:
        """(meshes, 2 parts, 3) albedo, for scenes without a room."""
        palettes = np.zeros((len(self._meshes), 2, 3), np.float32)
        palettes[_FLOOR] = 0.05
        for i, o in enumerate(self._scene.objects):
            palettes[self._first_object + i] = objects.palette(o.kind, o.color)
        return palettes

    def ids(self, K: Array, width: int, height: int, T_world_camera: Array | None = None) -> np.ndarray:
        """Instance ids alone (H,W): cheap, for judging a scene before it is rendered."""
        rays = self._rays(K, width, height, self._pose(T_world_camera))
        return self._instance_ids(self._cast(self._caster, rays)["geometry_ids"])

    def render(self, K: Array, width: int, height: int, T_world_camera: Array | None = None) -> Render:
        """What a camera with intrinsics K (3,3) px sees from T_world_camera (default: the scene's)."""
        rays = self._rays(K, width, height, self._pose(T_world_camera))
        hit = self._cast(self._caster, rays)
        geometry, depth = hit["geometry_ids"], hit["t_hit"]
        room = self._scene.room
        if room is None:
            seen = np.isfinite(depth)
            linear = np.zeros((height, width, 3), np.float32)
            linear[seen] = self._plain(self._hits(self._caster, rays[seen], hit, seen))
            rgb = (255 * np.clip(linear, 0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8)
            material, behind = np.zeros((height, width), np.uint8), None
        else:
            linear, material, behind = self._furnished(room, rays, hit)
            rgb = expose(linear, room)
        clean = np.where(np.isfinite(depth), depth, np.nan).astype(np.float32)
        return Render(rgb, clean, self._instance_ids(geometry), material, behind)

    def brightness(self, K: Array, width: int, height: int) -> float:
        """Mean linear radiance of the scene's view, in a room, before the camera's gain."""
        room = self._scene.room
        if room is None:
            raise ValueError("Only a scene with a room has an exposure.")
        rays = self._rays(K, width, height, self._pose(None))
        linear, _, _ = self._furnished(room, rays, self._cast(self._caster, rays))
        return float(np.minimum(linear, 1.0).mean())

    def exposed(self, gain: Array) -> Renderer:
        """The same with another gain (3,) of the camera, in a room."""
        if self._scene.room is None:
            raise ValueError("Only a scene with a room has an exposure.")
        other = copy(self)
        other._scene = replace(self._scene, room=replace(self._scene.room, gain=gain))
        return other

    @property
    def scene(self) -> Scene:
        return self._scene

    def _cast(self, caster: Any, rays: np.ndarray) -> dict[str, np.ndarray]:
        hit = caster.cast_rays(self._o3d.core.Tensor.from_numpy(rays))
        return {key: hit[key].numpy() for key in _HIT}

    def _hits(self, caster: Any, rays: np.ndarray, hit: dict[str, np.ndarray], seen: np.ndarray) -> Hits:
        """What the rays (N,6) hit; hit: results of all rays, seen: which of them belong to these."""
        g, t = hit["geometry_ids"][seen].astype(np.int64), hit["t_hit"][seen]
        face = self._face_start[g] + hit["primitive_ids"][seen].astype(np.int64)
        normal = self._smooth_normals(face, hit["primitive_uvs"][seen])
        point = rays[:, :3] + t[:, None] * rays[:, 3:]
        view = rays[:, 3:] / _length(rays[:, 3:])
        normal *= np.where(_dot(normal, view) > 0, np.float32(-1), np.float32(1))
        return Hits(g, self._parts[face], point, normal, view, self._lit(caster, point, normal))

    def _plain(self, hits: Hits) -> np.ndarray:
        """Linear colour (N,3) for scenes without a room."""
        albedo = self._palettes[hits.mesh, hits.part]
        on_table = hits.mesh == _TABLE
        albedo[on_table] = table_albedo(self._scene.table, hits.point[on_table, :2])
        shiny = hits.mesh >= self._first_object
        return shade(albedo, hits.normal, hits.view, hits.lit, self._scene.light, shiny)

    def _furnished(
        self, room: Room, rays: np.ndarray, hit: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, Depth | None]:
        """Linear colour (H,W,3), material (H,W) and depth behind clear things in a room; it shows through."""
        linear, material = self._appearance(room, self._caster, rays, hit)
        clear = (material & TRANSPARENT) > 0
        if not clear.any():
            return linear, material, None
        behind = np.where(np.isfinite(hit["t_hit"]), hit["t_hit"], np.nan).astype(np.float32)
        behind[clear] = self._see_through(room, rays, linear, clear)
        return linear, material, behind

    def _appearance(
        self, room: Room, caster: Any, rays: np.ndarray, hit: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Linear colour (...,3) and material (...) of what rays (...,6) hit."""
        seen = np.isfinite(hit["t_hit"])
        hits = self._hits(caster, rays[seen], hit, seen)
        color, gloss, flags = surface(self._scene, room, hits)
        linear, material = np.zeros((*seen.shape, 3), np.float32), np.zeros(seen.shape, np.uint8)
        linear[seen], material[seen] = shade_room(self._scene, room, hits, color, gloss), flags
        return linear, material

    def _see_through(self, room: Room, rays: np.ndarray, linear: np.ndarray, clear: np.ndarray) -> np.ndarray:
        """Mix into linear (H,W,3) what is behind all clear things; return its depth (m) at clear (H,W)."""
        things = enumerate(self._scene.objects, start=self._first_object)
        opaque = [i for i, o in things if o.skin is None or not o.skin.transparent]
        which = np.array([*range(self._first_object), *opaque])
        caster = self._casting(which)
        rest = rays[clear]
        front = self._cast(self._caster, rest)
        hits = self._hits(self._caster, rest, front, np.isfinite(front["t_hit"]))
        hit = self._cast(caster, rest)
        hit["geometry_ids"] = which[np.minimum(hit["geometry_ids"], len(which) - 1)]
        behind, _ = self._appearance(room, caster, rest, hit)
        linear[clear] = seen_through(linear[clear], behind, hits)
        return np.where(np.isfinite(hit["t_hit"]), hit["t_hit"], np.nan)

    def _pose(self, T_world_camera: Array | None) -> Array:
        return self._scene.T_world_camera if T_world_camera is None else T_world_camera

    def _rays(self, K: Array, width: int, height: int, T: Array) -> np.ndarray:
        u = (np.arange(width) - K[0, 2]) / K[0, 0]
        v = (np.arange(height) - K[1, 2]) / K[1, 1]
        rays = np.empty((height, width, 6), np.float32)
        rays[..., :3] = T[:3, 3]
        # not normalised: with z_camera = 1, t is the depth along z
        rays[..., 3:] = (u[:, None] * T[:3, 0])[None] + (v[:, None] * T[:3, 1] + T[:3, 2])[:, None]
        return rays

    def _smooth_normals(self, face: np.ndarray, uv: np.ndarray) -> np.ndarray:
        corners = self._corner_normals[face]  # (N, 3 corners, 3)
        weights = np.stack([1 - uv[:, 0] - uv[:, 1], uv[:, 0], uv[:, 1]], 1)
        n = np.einsum("nc,ncd->nd", weights, corners)
        return np.asarray(n / np.maximum(_length(n), 1e-6))

    def _lit(self, caster: Any, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
        towards = self._scene.light.direction.astype(np.float32)
        lit = normal @ towards > 0
        rays = np.empty((np.count_nonzero(lit), 6), np.float32)
        rays[:, :3], rays[:, 3:] = (point + 1e-3 * normal)[lit], towards
        lit[lit] = ~caster.test_occlusions(self._o3d.core.Tensor.from_numpy(rays)).numpy()
        return np.asarray(lit)

    def _instance_ids(self, geometry: np.ndarray) -> np.ndarray:
        invalid = geometry == np.iinfo(np.uint32).max
        ids = np.where(invalid, 0, geometry.astype(np.int64) - self._first_object + 1)
        return np.maximum(ids, 0).astype(np.uint8)


def shade(
    albedo: np.ndarray, normal: np.ndarray, view: np.ndarray, lit: np.ndarray, light: Light, shiny: np.ndarray
) -> np.ndarray:
    """Linear colour (N,3) of surface points; view (N,3) unit, away from the eye; lit (N,) sees the lamp."""
    towards = light.direction.astype(np.float32)
    lambert = np.clip(normal @ towards, 0, 1) * lit
    half = towards - view
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    highlight = 0.25 * np.clip((normal * half).sum(1), 0, 1) ** 40 * lit * shiny
    sky = light.sky * (0.65 + 0.35 * normal[:, 2])
    tint = light.tint.astype(np.float32)
    diffuse = albedo * (sky[:, None] + light.key * lambert[:, None] * tint)
    return np.asarray(diffuse + light.key * highlight[:, None] * tint)


def table_albedo(table: Table, xy: np.ndarray) -> np.ndarray:
    """Albedo (N,3) of the table top at xy (N,2) m."""
    c, s = np.cos(table.angle), np.sin(table.angle)
    x, y = (xy @ np.array([[c, -s], [s, c]], np.float32)).T / table.scale
    if table.texture == "wood":
        wave = 0.5 + 0.5 * np.sin(90 * x + 2.5 * np.sin(9 * y) + 1.5 * np.sin(31 * x))
        mix = np.where(np.abs((x / 0.16) % 1) < 0.02, 1.0, 0.6 * wave)
    elif table.texture == "checker":
        mix = ((np.floor(x / 0.06) + np.floor(y / 0.06)) % 2) * 0.8
    elif table.texture == "speckle":
        cell = np.floor(x / 0.004) * 12.9898 + np.floor(y / 0.004) * 78.233
        mix = np.abs(np.sin(cell) * 43758.5453) % 1
    else:
        mix = np.zeros_like(x)
    mix = mix.astype(np.float32)[:, None]
    return table.color_a.astype(np.float32) * (1 - mix) + table.color_b.astype(np.float32) * mix


def _length(vectors: np.ndarray) -> np.ndarray:
    """Length (N,1) of vectors (N,3)."""
    return np.asarray(np.sqrt(_dot(vectors, vectors)))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products (N,1) of rows (N,3)."""
    product = a * b
    return np.asarray(product[:, 0:1] + product[:, 1:2] + product[:, 2:3])


def _plain_table() -> list[mesh.Mesh]:
    """The table and the floor of scenes without a room."""
    table, floor = mesh.box(TABLE_SIZE), mesh.box((8.0, 8.0, 0.01))
    return [table.moved(_shift(-TABLE_SIZE[2])), floor.moved(_shift(-0.75))]


def _shift(z: float) -> Array:
    T = np.eye(4)
    T[2, 3] = z
    return T
