"""A simulated scene in motion: the camera, one object, and a screen that hides it for a while."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from molmo_ros.datatypes import Array, RgbdFrame
from molmo_ros.sim import mesh
from molmo_ros.sim.camera import FRAME_ID, fair_scene, intrinsics
from molmo_ros.sim.noise import NoiseModel, noisy_color, noisy_depth
from molmo_ros.sim.render import Renderer
from molmo_ros.sim.scene import Scene, SimObject


@dataclass(frozen=True)
class Motion:
    """camera_mps and object_mps (3,) m/s in the world; the object of this index moves.

    They turn by camera_rps and object_rps rad/s, the camera about the world's z, the object about the upright
    line through its middle; hidden (from, to) s: a screen stands before the object.
    """

    camera_mps: tuple[float, float, float] = (0.0, 0.0, 0.0)
    camera_rps: float = 0.0
    object_mps: tuple[float, float, float] = (0.0, 0.0, 0.0)
    object_rps: float = 0.0
    index: int = 0
    hidden: tuple[float, float] | None = None


@dataclass(frozen=True)
class MovingFrame:
    """A frame with its truth: ids (H,W), name and T_camera_object (4,4) of the object that is looked at."""

    frame: RgbdFrame
    ids: np.ndarray
    name: str
    T_camera_object: Array


def moving_frames(
    seed: int,
    motion: Motion,
    count: int,
    rate_hz: float = 15.0,
    width: int = 320,
    height: int = 240,
    threads: int = 1,
) -> Iterator[MovingFrame]:
    """Frames of the scene of a seed in motion; the first one is at time 0, stamped 1 s."""
    scene, _ = fair_scene(np.random.default_rng(seed), threads)
    rng, noise = np.random.default_rng([seed, 2]), NoiseModel()
    K = intrinsics(width, height)
    for i in range(count):
        now = scene_at(scene, motion, i / rate_hz)
        seen = Renderer(now, threads).render(K, width, height)
        depth = noisy_depth(seen.depth, K[0, 0], noise, rng)
        rgb = noisy_color(seen.rgb, rng, sigma=3.0 * noise.scale)
        frame = RgbdFrame(rgb, depth, K, FRAME_ID, int(1e9 + i * 1e9 / rate_hz))
        it = now.objects[motion.index]
        T = np.linalg.inv(now.T_world_camera) @ it.T_world_object
        yield MovingFrame(frame, seen.ids, it.name, T)


def scene_at(scene: Scene, motion: Motion, time_s: float) -> Scene:
    """The scene at a time; a screen, while there is one, comes last among the objects."""
    camera = _turned(motion.camera_rps * time_s) @ scene.T_world_camera
    camera[:3, 3] += np.array(motion.camera_mps) * time_s
    objects = list(scene.objects)
    it = objects[motion.index]
    step = _turned(motion.object_rps * time_s)
    middle = it.mesh.vertices.mean(0)
    step[:3, 3] = middle - step[:3, :3] @ middle + np.array(motion.object_mps) * time_s
    objects[motion.index] = replace(it, T_world_object=step @ it.T_world_object, mesh=it.mesh.moved(step))
    if motion.hidden is not None and motion.hidden[0] <= time_s < motion.hidden[1]:
        objects.append(_screen(objects[motion.index], camera))
    return replace(scene, objects=tuple(objects), T_world_camera=camera)


def _turned(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    T = np.eye(4)
    T[:2, :2] = [[c, -s], [s, c]]
    return T


def _screen(behind: SimObject, camera: Array) -> SimObject:
    """A board halfway between the camera and an object, large enough to hide it."""
    T = camera.copy()
    middle = behind.mesh.vertices.mean(0)
    T[:3, 3] = camera[:3, 3] + 0.6 * (middle - camera[:3, 3])
    board = mesh.box((0.17, 0.17, 0.004)).moved(T)
    return SimObject("box", "white", T, board)
