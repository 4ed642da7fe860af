"""Solids on a table, given by their signed distance, and a camera that sees them: scenes with exact truth.

World: z up, the table is z = 0. A solid is a function of points (...,3) m to signed distances (...) m.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from molmo_ros.datatypes import Array, CameraPoint, Grasp, ImagePoint, Mask, ObjectSegment, RgbdFrame
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.segment import segment_object
from molmo_ros.transforms import invert, pose_matrix, transform_points

Solid = Callable[[Array], Array]


def table(p: Array) -> Array:
    return p[..., 2]


def sphere(x: float, y: float, radius: float) -> Solid:
    centre = np.array([x, y, radius])
    return lambda p: np.linalg.norm(p - centre, axis=-1) - radius


def block(x: float, y: float, size: tuple[float, float, float], yaw: float = 0.0) -> Solid:
    """Return a box standing on the table."""
    half = np.asarray(size) / 2
    c, s = np.cos(yaw), np.sin(yaw)
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    centre = np.array([x, y, half[2]])

    def distance(p: Array) -> Array:
        q = np.abs((p - centre) @ R) - half
        return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(axis=-1), 0)

    return distance


def can(x: float, y: float, radius: float, height: float) -> Solid:
    """Return an upright cylinder."""

    def distance(p: Array) -> Array:
        r = np.hypot(p[..., 0] - x, p[..., 1] - y) - radius
        z = np.abs(p[..., 2] - height / 2) - height / 2
        return np.hypot(np.maximum(r, 0), np.maximum(z, 0)) + np.minimum(np.maximum(r, z), 0)

    return distance


def roll(x: float, y: float, radius: float, length: float, yaw: float = 0.0) -> Solid:
    """Return a cylinder that lies on the table along the direction yaw."""
    c, s = np.cos(yaw), np.sin(yaw)

    def distance(p: Array) -> Array:
        along = np.abs((p[..., 0] - x) * c + (p[..., 1] - y) * s) - length / 2
        across = (p[..., 1] - y) * c - (p[..., 0] - x) * s
        r = np.hypot(across, p[..., 2] - radius) - radius
        return np.hypot(np.maximum(r, 0), np.maximum(along, 0)) + np.minimum(np.maximum(r, along), 0)

    return distance


def cup(x: float, y: float, radius: float, height: float, wall: float = 0.004) -> Solid:
    """Return an open cylinder with a bottom as thick as its wall."""
    outside, hollow = can(x, y, radius, height), can(x, y, radius - wall, 2 * height)
    return lambda p: np.maximum(outside(p), -np.maximum(hollow(p), wall - p[..., 2]))


@dataclass(frozen=True)
class View:
    """A frame of solids; ids (H,W): -1 nothing, 0 the table, i = solids[i-1]; up (3,) in the camera frame."""

    frame: RgbdFrame
    ids: np.ndarray
    solids: tuple[Solid, ...]
    T_world_camera: Array

    @property
    def up(self) -> Array:
        return self.T_world_camera[2, :3].copy()

    def mask(self, which: int = 1) -> Mask:
        return np.asarray(self.ids == which)

    def middle(self, which: int = 1) -> ImagePoint:
        """Return the pixel of a solid nearest to the middle of what is seen of it."""
        v, u = np.nonzero(self.mask(which))
        k = int(np.argmin((v - v.mean()) ** 2 + (u - u.mean()) ** 2))
        return ImagePoint(float(u[k]), float(v[k]), "it")

    def lifted(self, which: int = 1) -> CameraPoint:
        return lift_point(self.frame, self.middle(which))

    def segment(self, which: int = 1) -> ObjectSegment:
        return segment_object(self.frame, self.middle(which), self.lifted(which), self.up)

    def world_image(self) -> Array:
        """Return the world position (H,W,3) m of each pixel."""
        v, u = np.indices(self.ids.shape)
        rays = np.stack([u, v, np.ones(u.shape)], axis=-1) @ np.linalg.inv(self.frame.K).T
        return self.world(rays * self.frame.depth[..., None])

    def world(self, points: Array) -> Array:
        return transform_points(self.T_world_camera, points)


def look(
    *solids: Solid,
    elevation_deg: float = 50.0,
    azimuth_deg: float = 200.0,
    distance: float = 0.5,
    noise: float = 0.0,
    with_table: bool = True,
    size: tuple[int, int] = (320, 240),
) -> View:
    """See solids from a distance (m) to the middle of the table; noise multiplies a real sensor's."""
    e, a = np.radians(elevation_deg), np.radians(azimuth_deg)
    away = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    T = _look_at(np.array([0, 0, 0.03]), distance * away)
    width, height = size
    f = 1.07 * width
    K = np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1.0]])
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([(u - K[0, 2]) / f, (v - K[1, 2]) / f, np.ones(u.shape)], axis=-1)
    z, ids = _march(T, rays, [table if with_table else (lambda p: np.full(p.shape[:-1], 9.0)), *solids])
    if noise > 0:
        rng = np.random.default_rng(0)
        z = z + rng.normal(size=z.shape) * noise * (z**2 * 0.08 / (2 * f * 0.05) + 0.0003)
    rgb = np.array([[180, 160, 140], [200, 40, 40], [40, 160, 60], [40, 80, 180], [20, 20, 20]], np.uint8)[
        np.clip(ids, 0, 4)
    ]
    return View(RgbdFrame(rgb, z.astype(np.float32), K), ids, tuple(solids), T)


def _look_at(target: Array, offset: Array) -> Array:
    z = -offset / np.linalg.norm(offset)
    x = np.cross(z, [0.0, 0.0, 1.0]) if abs(z[2]) < 0.999 else np.array([0.0, -1.0, 0.0])
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
    T[:3, 3] = target + offset
    return T


def _march(T: Array, rays: Array, solids: Sequence[Solid]) -> tuple[Array, np.ndarray]:
    """Follow rays (H,W,3), z = 1, to the first solid (sphere tracing); depth is NaN beyond 2 m."""
    length = np.linalg.norm(rays, axis=-1)
    direction = (rays @ T[:3, :3].T / length[..., None]).reshape(-1, 3)
    t = np.zeros(len(direction))
    going = np.arange(len(direction))
    for _ in range(200):
        step = np.min([solid(T[:3, 3] + t[going, None] * direction[going]) for solid in solids], axis=0)
        t[going] += step
        going = going[(step > 2e-6) & (t[going] < 2.0)]
        if len(going) == 0:
            break
    near = np.array([solid(T[:3, 3] + t[:, None] * direction) for solid in solids])
    hit = near.min(axis=0) < 1e-4
    shape = rays.shape[:2]
    depth = np.where(hit, t / length.ravel(), np.nan).reshape(shape)
    return depth, np.where(hit, near.argmin(axis=0), -1).reshape(shape)


def hand_points(gripper: Gripper, opening: float, step: float = 0.003) -> Array:
    """Fill the boxes of a gripper's fingers and palm with points (N,3), in the grasp frame."""
    length, width, thick = gripper.finger_length, gripper.finger_width, gripper.finger_thickness
    x, y, z = gripper.palm
    finger = _filled((-width / 2, opening / 2, -length), (width / 2, opening / 2 + thick, 0), step)
    palm = _filled((-x / 2, -y / 2, -length - z), (x / 2, y / 2, -length), 2 * step)
    return np.concatenate([finger, finger * [1, -1, 1], palm])


def _filled(low: Sequence[float], high: Sequence[float], step: float) -> Array:
    axes = [np.linspace(a, b, int((b - a) / step) + 2) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def clearance(view: View, grasp: Grasp, gripper: Gripper, withdrawn: float = 0.0) -> float:
    """Return the least distance (m) of the open hand to any solid and the table; negative inside one."""
    points = hand_points(gripper, grasp.opening) - np.array([0, 0, withdrawn])
    points = view.world(transform_points(pose_matrix(grasp.pose), points))
    return float(min(solid(points).min() for solid in (table, *view.solids)))


def closes_on(view: View, grasp: Grasp, which: int = 1) -> tuple[float, float]:
    """Close the fingers on a solid: return the true width (m), and the worse |cos| of contact normal and y.

    Both are 0 if the pads meet nothing.
    """
    solid = view.solids[which - 1]
    T = view.T_world_camera @ pose_matrix(grasp.pose)
    x, z = np.meshgrid(np.linspace(-0.008, 0.008, 5), np.linspace(-0.016, 0.0, 9))
    y = np.linspace(-grasp.opening / 2, grasp.opening / 2, 401)
    grid = np.stack(np.broadcast_arrays(x.ravel()[:, None], y[None], z.ravel()[:, None]), axis=-1)
    inside = solid(transform_points(T, grid)) < 0
    if not inside.any():
        return 0.0, 0.0
    column, row = np.nonzero(inside)
    contacts = [grid[column[row == k], k] for k in (row.min(), row.max())]
    cosines = [np.abs(_gradient(solid, transform_points(T, c)) @ T[:3, 1]).max() for c in contacts]
    return float(y[row.max()] - y[row.min()]), float(min(cosines))


def _gradient(solid: Solid, points: Array) -> Array:
    step = 1e-5 * np.eye(3)
    g = np.stack([solid(points + e) - solid(points - e) for e in step], axis=-1)
    return g / np.linalg.norm(g, axis=-1, keepdims=True)


def to_camera(view: View, point: Array) -> Array:
    return transform_points(invert(view.T_world_camera), np.asarray(point, dtype=float))


def smeared(view: View, sigma_px: float = 2.5) -> View:
    """Blur the disparity as a matching window does: edges become ramps, and nothing separates things."""
    import cv2

    disparity = 1 / np.where(np.isfinite(view.frame.depth), view.frame.depth, 2.0).astype(np.float32)
    blurred = cv2.GaussianBlur(disparity, (0, 0), sigma_px)
    return replace(view, frame=replace(view.frame, depth=(1 / blurred).astype(np.float32)))
