"""What the camera sees of a case, and the pixel that is pointed at."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Depth, ImagePoint, Mask, RgbdFrame
from molmo_ros.sim.camera import FRAME_ID, intrinsics
from molmo_ros.sim.noise import NoiseModel, noisy_color, noisy_depth
from molmo_ros.sim.render import Renderer
from molmo_ros.sim.scene import SimObject
from molmo_ros.sim.sensors import DROPOUT, STEREO, SensorView, sensed_depth
from molmo_ros.tools.grasp_physics.case import MUG_FLOOR, NO_DEPTH, NOMINAL, NOTHING, Case
from molmo_ros.transforms import invert, transform_points

SIZE = (640, 480)
FLOOR_M, EDGE_M = 0.003, 0.001  # from the height of a vessel's inner floor, and beyond its edge
TRANSPARENT_PX = 9  # how far beyond the outline of a transparent thing the depth is lost


@dataclass(frozen=True)
class View:
    """frame, as of the sensor; mask (H,W) of the target, depth (H,W) m without noise, and ids (H,W)."""

    case: Case
    frame: RgbdFrame
    mask: Mask
    depth: Depth
    ids: np.ndarray

    @property
    def up(self) -> Array:
        """(3,) in the optical frame."""
        return np.asarray(self.case.scene.T_world_camera[2, :3])


def look(case: Case, noise: float | None = None, sensor: str = STEREO) -> View:
    """Render a case and measure its depth with a sensor (sim/sensors.py).

    noise scales the dropout sensor and the noise of the colour image (default: the case's own). Families that
    have noise or holes of their own are about the dropout sensor, and keep it.
    """
    K = intrinsics(*SIZE)
    seen = Renderer(case.scene, 1).render(K, *SIZE)
    scale = case.noise if noise is None else noise
    rng = np.random.default_rng([case.seed, 3])
    if sensor == DROPOUT or (case.noise, case.holes) != (NOMINAL.noise, NOMINAL.holes):
        depth = noisy_depth(seen.depth, K[0, 0], NoiseModel(scale=scale, holes=case.holes), rng)
    else:
        depth = sensed_depth(SensorView(seen.depth, seen.rgb, seen.material, seen.behind), K, sensor, rng)
    rgb = noisy_color(seen.rgb, rng, sigma=3.0 * scale)
    mask = seen.ids == case.target + 1
    if case.variant == NO_DEPTH and not case.feasible:
        lost = cv2.dilate(mask.astype(np.uint8), np.ones((2 * TRANSPARENT_PX + 1,) * 2, np.uint8)) > 0
        depth = np.where(lost, np.float32(np.nan), depth)
    return View(case, RgbdFrame(rgb, depth, K, FRAME_ID), mask, seen.depth, seen.ids)


def click(view: View, jitter_px: float = 0.0) -> ImagePoint:
    """A pixel in the inner half of the visible mask, as people and models point; of mug_floor, on the floor.

    jitter_px: standard deviation, per axis, of an error of pointing; it may lead off the target. The
    covariance reflects it, as a calibrated model's would.
    """
    rng = np.random.default_rng([view.case.seed, 4])
    if view.case.variant == NOTHING and not view.case.feasible:
        inner = empty_table(view)
    elif view.case.family == MUG_FLOOR:
        camera = view.case.scene.T_world_camera
        inner = inner_floor(view.case.thing, camera, view.frame.K, view.mask, view.depth)
    else:
        inside = cv2.distanceTransform(np.pad(view.mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
        inner = inside >= 0.5 * inside.max()
    v, u = np.nonzero(inner)
    k = int(rng.integers(len(v)))
    off = rng.normal(size=2) * jitter_px
    x, y = np.clip([u[k] + off[0], v[k] + off[1]], 0, [SIZE[0] - 1, SIZE[1] - 1])
    covariance = max(jitter_px, 1.0) ** 2 * np.eye(2)
    return ImagePoint(float(x), float(y), view.case.thing.name, covariance=covariance)


def inner_floor(thing: SimObject, T_world_camera: Array, K: Array, mask: Mask, depth: Depth) -> Mask:
    """Pixels (H,W) of a mask that show the floor inside a vessel, which is made around its z axis.

    The outside of the wall is as low as the floor, but farther from the axis.
    """
    local = (thing.mesh.vertices - thing.T_world_object[:3, 3]) @ thing.T_world_object[:3, :3]
    radius = np.hypot(local[:, 0], local[:, 1])
    floor = float(local[radius < 1e-5, 2].max())
    edge = float(radius[np.abs(local[:, 2] - floor) < 1e-4].max())
    v, u = np.nonzero(mask)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(len(u))], axis=1)
    T = invert(thing.T_world_object) @ T_world_camera
    inside = np.zeros(mask.shape, dtype=np.bool_)
    x, y, z = transform_points(T, rays * depth[v, u, None]).T
    inside[v, u] = (np.abs(z - floor) < FLOOR_M) & (np.hypot(x, y) < edge + EDGE_M)
    return inside


def empty_table(view: View) -> Mask:
    """Pixels (H,W) that show the table, well away from all things and from the border of the image."""
    free = (view.ids == 0) & (view.depth < 1.2)
    free[[0, -1]] = free[:, [0, -1]] = False
    away = cv2.distanceTransform(free.astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(away >= min(60.0, float(away.max())))
