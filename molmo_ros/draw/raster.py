"""A small software renderer: z-buffered splats, triangles and lines, supersampled, NumPy only.

World coordinates are those of the frame's camera (x right, y down, z forward); the eye looks from
anywhere. The eye's own axes follow the same convention, and depth is along the eye's z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Array, Image
from molmo_ros.draw.style import Color, Floats
from molmo_ros.transforms import unit

NEAR_M = 0.02
MAX_SPLAT_PX = 7


@dataclass(frozen=True)
class Eye:
    """A pinhole eye: rotation (3,3) from world to eye, position (3,) m, focal length in px."""

    rotation: Array
    position: Array
    focal: float
    width: int
    height: int

    @classmethod
    def look_at(cls, position: Array, focus: Array, up: Array, fov: float, size: tuple[int, int]) -> Eye:
        """Return the eye at position that looks at focus, with up upwards; fov is vertical, in rad."""
        forward = unit(focus - position)
        right = unit(np.cross(forward, up))
        rotation = np.stack([right, np.cross(forward, right), forward])
        return cls(rotation, position, 0.5 * size[1] / np.tan(fov / 2), size[0], size[1])

    def to_eye(self, points: Array) -> Array:
        """Return world points (...,3) in the eye's axes."""
        return np.asarray((points - self.position) @ self.rotation.T)

    def project(self, points: Array) -> tuple[Array, Array]:
        """Return pixels (...,2) and depth (...) m of world points; depth <= 0 is behind the eye."""
        p = self.to_eye(points)
        z = np.where(np.abs(p[..., 2]) < 1e-9, 1e-9, p[..., 2])
        centre = np.array([(self.width - 1) / 2, (self.height - 1) / 2])
        return p[..., :2] / z[..., None] * self.focal + centre, p[..., 2]


class Canvas:
    """A colour buffer and a z-buffer seen by one eye."""

    def __init__(self, eye: Eye, background: Floats) -> None:
        """Start from a background (H,W,3) float32 at infinite depth."""
        self.eye = eye
        self.color: Floats = background.reshape(-1, 3).copy()
        self.z: Floats = np.full(eye.height * eye.width, np.inf, dtype=np.float32)

    def splat(self, points: Array, colors: Floats, spacing_px: Floats) -> None:
        """Draw points (N,3) m as squares with colours (N,3), each as wide as its spacing (N,) px."""
        pixels, z = self.eye.project(points)
        sizes = np.clip(np.ceil(spacing_px), 1, MAX_SPLAT_PX).astype(np.int64)
        for size in np.unique(sizes):
            chosen = (sizes == size) & (z > NEAR_M)
            order = np.argsort(-z[chosen])  # far to near: on one pixel the last write, the nearest, stays
            corner = np.round(pixels[chosen][order] - (size - 1) / 2).astype(np.int64)
            near_z, tint = z[chosen][order].astype(np.float32), colors[chosen][order]
            for dy in range(int(size)):
                for dx in range(int(size)):
                    self._write(corner[:, 0] + dx, corner[:, 1] + dy, near_z, tint)

    def _write(self, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64], z: Floats, colors: Floats) -> None:
        inside = (x >= 0) & (x < self.eye.width) & (y >= 0) & (y < self.eye.height)
        index = y[inside] * self.eye.width + x[inside]
        z, colors = z[inside], colors[inside]
        nearer = z < self.z[index]
        self.z[index[nearer]] = z[nearer]
        self.color[index[nearer]] = colors[nearer]

    def triangles(self, vertices: Array, faces: npt.NDArray[np.int64], color: Color) -> None:
        """Draw a mesh, vertices (V,3) m and faces (F,3), flat shaded by a light at the eye's left."""
        pixels, z = self.eye.project(vertices)
        p = self.eye.to_eye(vertices)[faces]
        normals = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
        facing = np.einsum("ij,ij->i", normals, p.mean(axis=1))
        normals = np.where(facing[:, None] > 0, -normals, normals)
        tints = _shade(normals, p.mean(axis=1), color)
        for face, tint in zip(faces, tints, strict=True):
            if (z[face] > NEAR_M).all():
                self._triangle(pixels[face], z[face], tint)

    def _triangle(self, corners: Array, z: Array, tint: Floats) -> None:
        lo = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
        hi = np.minimum(np.ceil(corners.max(axis=0)), [self.eye.width - 1, self.eye.height - 1]).astype(int)
        if (hi < lo).any():
            return
        (ax, ay), (bx, by), (cx, cy) = corners
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            return
        x = np.arange(lo[0], hi[0] + 1)[None, :]
        y = np.arange(lo[1], hi[1] + 1)[:, None]
        wb = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area
        wc = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / area
        wa = 1 - wb - wc
        rows, cols = np.nonzero((wa >= 0) & (wb >= 0) & (wc >= 0))
        if rows.size == 0:
            return
        # 1/z, not z, is linear on the screen.
        inverse = wa[rows, cols] / z[0] + wb[rows, cols] / z[1] + wc[rows, cols] / z[2]
        depth = (1 / inverse).astype(np.float32)
        self._write(cols + lo[0], rows + lo[1], depth, np.broadcast_to(tint, (rows.size, 3)))

    def shade_edges(self, strength: float = 70.0, reach_px: int = 2) -> None:
        """Darken where a neighbour is nearer (eye-dome lighting, Boucheny 2009): gives a cloud its relief."""
        shape = (self.eye.height, self.eye.width)
        log_z = np.log2(self.z, where=np.isfinite(self.z), out=np.full_like(self.z, 99.0)).reshape(shape)
        deeper = np.zeros(shape, dtype=np.float32)
        r = reach_px
        for dy, dx in ((0, r), (r, 0), (0, -r), (-r, 0)):
            to = (slice(max(dy, 0), shape[0] + min(dy, 0)), slice(max(dx, 0), shape[1] + min(dx, 0)))
            of = (slice(max(-dy, 0), shape[0] + min(-dy, 0)), slice(max(-dx, 0), shape[1] + min(-dx, 0)))
            deeper[to] += np.clip(log_z[to] - log_z[of], 0, 0.02)
        shade = np.exp(-strength * deeper / 4).reshape(-1, 1)
        self.color *= np.where(np.isfinite(self.z)[:, None], shade, 1)

    def lines(
        self,
        starts: Array,
        ends: Array,
        color: Color,
        width_px: float,
        alpha: float = 1.0,
        hidden: float = 0.0,
        bias_m: float = 0.003,
    ) -> None:
        """Blend lines (N,3) -> (N,3) over the picture; hidden is the alpha of what lies behind a surface."""
        index, z = self._trace(starts, ends, width_px)
        visible = z < self.z[index] + bias_m
        for chosen, a in ((index[~visible], hidden), (index[visible], alpha)):
            if a > 0 and chosen.size:
                once = np.unique(chosen)
                self.color[once] = self.color[once] * (1 - a) + np.array(color, dtype=np.float32) * a

    def _trace(self, starts: Array, ends: Array, width_px: float) -> tuple[npt.NDArray[np.int64], Floats]:
        """Return the pixels that thick lines cover, with the lines' depth there."""
        a, b = self.eye.project(starts)[0], self.eye.project(ends)[0]
        count = int(np.clip(np.abs(b - a).max(), 2, 4000)) + 1
        t = np.linspace(0, 1, count)[None, :, None]
        points = (starts[:, None] * (1 - t) + ends[:, None] * t).reshape(-1, 3)
        pixels, z = self.eye.project(points)
        r = int(np.ceil(width_px / 2))
        oy, ox = np.mgrid[-r : r + 1, -r : r + 1]
        disk = np.hypot(ox, oy) <= width_px / 2
        at = np.round(pixels).astype(np.int64)
        x = (at[:, 0, None] + ox[disk]).ravel()
        y = (at[:, 1, None] + oy[disk]).ravel()
        z = np.repeat(z, int(disk.sum()))
        inside = (x >= 0) & (x < self.eye.width) & (y >= 0) & (y < self.eye.height) & (z > NEAR_M)
        return y[inside] * self.eye.width + x[inside], z[inside].astype(np.float32)

    def image(self, supersample: int) -> Image:
        """Return the picture (H/s,W/s,3), each pixel the mean of s x s."""
        h, w, s = self.eye.height // supersample, self.eye.width // supersample, supersample
        mean = self.color.reshape(h, s, w, s, 3).mean(axis=(1, 3))
        return np.asarray(mean.clip(0, 255), dtype=np.uint8)


def _shade(normals: Array, centres: Array, color: Color) -> Floats:
    """Return the colours (F,3) of faces by Blinn and Phong, in the eye's axes."""
    light = unit(np.array([-0.35, -0.62, -0.75]))
    half = light - centres / (np.linalg.norm(centres, axis=1, keepdims=True) + 1e-12)
    half /= np.linalg.norm(half, axis=1, keepdims=True) + 1e-12
    diffuse = 0.50 + 0.52 * np.clip(normals @ light, 0, 1)
    glint = 60 * np.clip((normals * half).sum(axis=1), 0, 1) ** 24
    return np.asarray(diffuse[:, None] * np.array(color) + glint[:, None], dtype=np.float32)
