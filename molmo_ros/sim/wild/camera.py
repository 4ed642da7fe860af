"""A simulated RGB-D camera in wild scenes, with the interface of sim.SimCamera."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.sim.camera import FRAME_ID, SimTruth, intrinsics
from molmo_ros.sim.noise import noisy_color
from molmo_ros.sim.sensors import STEREO, SensorView, check_sensor, sensed_depth
from molmo_ros.sim.wild.scenes import POOLS, TUNING, wild_view


class WildCamera:
    """One view of the stream `stream`, drawn from a seed; noise differs from frame to frame."""

    def __init__(
        self, seed: int, width: int = 640, height: int = 480, sensor: str = STEREO, stream: int = TUNING
    ) -> None:
        """sensor: by name, see sensors.py. Raises: ParameterError for an unknown sensor."""
        self._sensor = check_sensor(sensor)
        self.seed, self.width, self.height = seed, width, height
        self.K = intrinsics(width, height)
        rng = np.random.default_rng([seed, stream])
        self._render, _, self.scene = wild_view(rng, width, height, POOLS[stream], K=self.K)
        self._rng = np.random.default_rng([seed, stream, 1])

    @property
    def truth(self) -> SimTruth:
        """What is really there; a bin is a thing like the others."""
        r, scene = self._render, self.scene
        return SimTruth(scene.objects, r.ids, r.depth, scene.T_world_camera)

    def frame(self, stamp_ns: int = 0) -> RgbdFrame:
        """The next noisy frame."""
        r = self._render
        view = SensorView(r.depth, r.rgb, r.material, r.behind)
        depth = sensed_depth(view, self.K, self._sensor, self._rng)
        return RgbdFrame(noisy_color(r.rgb, self._rng), depth, self.K, FRAME_ID, stamp_ns)
