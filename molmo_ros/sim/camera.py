"""A simulated RGB-D camera over a random table: sensor-like frames, and the ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from molmo_ros.datatypes import Array, Depth, RgbdFrame
from molmo_ros.sim.noise import NoiseModel, noisy_color, noisy_depth
from molmo_ros.sim.render import Render, Renderer
from molmo_ros.sim.scene import MIN_VISIBLE, Scene, SimObject, random_scene
from molmo_ros.sim.sensors import DROPOUT, SensorView, check_sensor, sensed_depth

FRAME_ID = "camera_color_optical_frame"
HFOV = np.radians(50.0)  # a wrist camera's
_JUDGE_WIDTH = 96  # px, for deciding whether a scene is fair


@dataclass(frozen=True)
class SimTruth:
    """ids (H,W): 0 = no object, i = objects[i-1]; depth (H,W) m without noise; T_world_camera (4,4)."""

    objects: tuple[SimObject, ...]
    ids: np.ndarray
    depth: Depth
    T_world_camera: Array


def intrinsics(width: int, height: int) -> Array:
    """K (3,3) px of the simulated camera at a size."""
    f = width / 2 / np.tan(HFOV / 2)
    return np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1.0]])


class SimCamera:
    """One scene, drawn from a seed, seen by one camera.

    The same seed gives the same scene at every size; noise differs from frame to frame, as a sensor's does.
    """

    def __init__(
        self,
        seed: int,
        width: int = 640,
        height: int = 480,
        noise: NoiseModel | None = None,
        threads: int = 0,
        sensor: str = DROPOUT,
    ) -> None:
        """sensor: by name, see sensors.py; noise is that of the dropout sensor and scales the colour's.

        Raises: ParameterError for an unknown sensor.
        """
        self._sensor = check_sensor(sensor)
        self.seed, self.width, self.height = seed, width, height
        self.K = intrinsics(width, height)
        self._noise = noise or NoiseModel()
        self._scene, self._renderer = fair_scene(np.random.default_rng(seed), threads)
        self._rng = np.random.default_rng([seed, 1])
        self._rendered: Render | None = None

    @property
    def scene(self) -> Scene:
        return self._scene

    def _render(self) -> Render:
        if self._rendered is None:
            self._rendered = self._renderer.render(self.K, self.width, self.height)
        return self._rendered

    @property
    def truth(self) -> SimTruth:
        r = self._render()
        return SimTruth(self._scene.objects, r.ids, r.depth, self._scene.T_world_camera)

    def frame(self, stamp_ns: int = 0) -> RgbdFrame:
        """The next noisy frame."""
        r = self._render()
        if self._sensor == DROPOUT:
            depth = noisy_depth(r.depth, self.K[0, 0], self._noise, self._rng)
        else:
            depth = sensed_depth(SensorView(r.depth, r.rgb, r.material), self.K, self._sensor, self._rng)
        rgb = noisy_color(r.rgb, self._rng, sigma=3.0 * self._noise.scale)
        return RgbdFrame(rgb, depth, self.K, FRAME_ID, stamp_ns)


def fair_scene(rng: np.random.Generator, threads: int = 0) -> tuple[Scene, Renderer]:
    """Draw a scene and remove what does not show well; draw again if nothing is left."""
    width, height = _JUDGE_WIDTH, _JUDGE_WIDTH * 3 // 4
    K = intrinsics(width, height)
    while True:
        scene = random_scene(rng)
        renderer = Renderer(scene, threads)
        shown = shows_well(renderer.ids(K, width, height), len(scene.objects))
        kept = tuple(o for o, ok in zip(scene.objects, shown, strict=True) if ok)
        if len(kept) == len(scene.objects):
            return scene, renderer
        if kept:  # removing things can only uncover the rest
            scene = replace(scene, objects=kept)
            return scene, Renderer(scene, threads)


def shows_well(ids: np.ndarray, count: int) -> np.ndarray:
    """(count,) bool: the object shows MIN_VISIBLE of the image, and the border cuts next to nothing of it."""
    seen = np.bincount(ids.ravel(), minlength=count + 1)[1:]
    border = np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]])
    cut = np.bincount(border, minlength=count + 1)[1:]
    return (seen >= MIN_VISIBLE * ids.size) & (cut <= 0.02 * seen)
