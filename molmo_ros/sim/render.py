"""Ray casting of a scene on the CPU (open3d's RaycastingScene, no GL): colour, clean depth, instance ids.

The shading is Lambert with a lamp that casts shadows, sky light from above and a small highlight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from molmo_ros.datatypes import Array, Depth, Image
from molmo_ros.sim import mesh, objects
from molmo_ros.sim.scene import TABLE_SIZE, Light, Scene, Table

_TABLE, _FLOOR, _FIRST_OBJECT = 0, 1, 2


@dataclass(frozen=True)
class Render:
    """rgb (H,W,3) uint8; depth (H,W) m along z, NaN: nothing was hit; ids (H,W), 0: none, i: object i-1."""

    rgb: Image
    depth: Depth
    ids: np.ndarray


class Renderer:
    """Holds a scene's acceleration structure, so that several sizes or poses share it."""

    def __init__(self, scene: Scene, threads: int = 0) -> None:
        import open3d as o3d  # 1.3 s and 100 MB: only simulation pays

        self._scene, self._threads, self._o3d = scene, threads, o3d
        table = mesh.box(TABLE_SIZE)
        floor = mesh.box((8.0, 8.0, 0.01))
        self._meshes = [
            table.moved(_shift(-TABLE_SIZE[2])),
            floor.moved(_shift(-0.75)),
            *(o.mesh for o in scene.objects),
        ]
        self._caster = o3d.t.geometry.RaycastingScene(nthreads=threads)
        for m in self._meshes:
            self._caster.add_triangles(
                o3d.core.Tensor.from_numpy(np.ascontiguousarray(m.vertices, np.float32)),
                o3d.core.Tensor.from_numpy(np.ascontiguousarray(m.faces, np.uint32)),
            )
        self._face_start = np.cumsum([0] + [len(m.faces) for m in self._meshes[:-1]])
        whole = mesh.join(*self._meshes)
        self._faces, self._parts = whole.faces, whole.parts
        self._normals = whole.normals.astype(np.float32)
        self._palettes = np.zeros((len(self._meshes), 2, 3), np.float32)
        self._palettes[_FLOOR] = 0.05
        for i, o in enumerate(scene.objects):
            self._palettes[_FIRST_OBJECT + i] = objects.palette(o.kind, o.color)

    def ids(self, K: Array, width: int, height: int, T_world_camera: Array | None = None) -> np.ndarray:
        """Instance ids alone (H,W): cheap, for judging a scene before it is rendered."""
        hit = self._caster.cast_rays(self._rays(K, width, height, self._pose(T_world_camera)))
        return _instance_ids(hit["geometry_ids"].numpy())

    def render(self, K: Array, width: int, height: int, T_world_camera: Array | None = None) -> Render:
        """What a camera with intrinsics K (3,3) px sees from T_world_camera (default: the scene's)."""
        rays = self._rays(K, width, height, self._pose(T_world_camera))
        hit = self._caster.cast_rays(rays)
        geometry = hit["geometry_ids"].numpy()
        depth = hit["t_hit"].numpy()
        seen = np.isfinite(depth)
        r, t, g = rays.numpy()[seen], depth[seen], geometry[seen].astype(np.int64)
        face = self._face_start[g] + hit["primitive_ids"].numpy()[seen].astype(np.int64)
        normal = self._smooth_normals(face, hit["primitive_uvs"].numpy()[seen])
        point = r[:, :3] + t[:, None] * r[:, 3:]
        view = r[:, 3:] / np.linalg.norm(r[:, 3:], axis=1, keepdims=True)
        normal *= np.where((normal * view).sum(1, keepdims=True) > 0, -1, 1).astype(np.float32)
        albedo = self._palettes[g, self._parts[face]]
        on_table = g == _TABLE
        albedo[on_table] = table_albedo(self._scene.table, point[on_table, :2])
        lit = self._lit(point, normal)
        linear = np.zeros((height, width, 3), np.float32)
        linear[seen] = shade(albedo, normal, view, lit, self._scene.light, shiny=g >= _FIRST_OBJECT)
        rgb = (255 * np.clip(linear, 0, 1) ** (1 / 2.2) + 0.5).astype(np.uint8)
        return Render(rgb, np.where(seen, depth, np.nan).astype(np.float32), _instance_ids(geometry))

    def _pose(self, T_world_camera: Array | None) -> Array:
        return self._scene.T_world_camera if T_world_camera is None else T_world_camera

    def _rays(self, K: Array, width: int, height: int, T: Array) -> Any:
        u, v = np.meshgrid(np.arange(width), np.arange(height))
        local = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u, float)], -1)
        rays = np.empty((height, width, 6), np.float32)
        rays[..., :3] = T[:3, 3]
        rays[..., 3:] = local @ T[:3, :3].T  # not normalised: with z_camera = 1, t is the depth along z
        return self._o3d.core.Tensor.from_numpy(rays)

    def _smooth_normals(self, face: np.ndarray, uv: np.ndarray) -> np.ndarray:
        corners = self._normals[self._faces[face]]  # (N, 3 corners, 3)
        weights = np.stack([1 - uv[:, 0] - uv[:, 1], uv[:, 0], uv[:, 1]], 1)
        n = np.einsum("nc,ncd->nd", weights, corners)
        return np.asarray(n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-6))

    def _lit(self, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
        towards = self._scene.light.direction.astype(np.float32)
        rays = np.concatenate([point + 1e-3 * normal, np.broadcast_to(towards, point.shape)], 1)
        hidden = self._caster.test_occlusions(self._o3d.core.Tensor.from_numpy(rays.astype(np.float32)))
        return np.asarray(~hidden.numpy())


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


def _instance_ids(geometry: np.ndarray) -> np.ndarray:
    invalid = geometry == np.iinfo(np.uint32).max
    ids = np.where(invalid, 0, geometry.astype(np.int64) - _FIRST_OBJECT + 1)
    return np.maximum(ids, 0).astype(np.uint8)


def _shift(z: float) -> Array:
    T = np.eye(4)
    T[2, 3] = z
    return T
