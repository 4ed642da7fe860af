"""A simulated RGB-D camera in wild scenes, with the interface of sim.SimCamera."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.sim.camera import FRAME_ID, SimTruth, intrinsics
from molmo_ros.sim.noise import NoiseModel, noisy_color, noisy_depth
from molmo_ros.sim.wild.scenes import POOLS, TUNING, wild_view


class WildCamera:
    """One view of the stream `stream`, drawn from a seed; noise differs from frame to frame."""

    def __init__(
        self,
        seed: int,
        width: int = 640,
        height: int = 480,
        noise: NoiseModel | None = None,
        stream: int = TUNING,
    ) -> None:
        self.seed, self.width, self.height = seed, width, height
        self.K = intrinsics(width, height)
        self._noise = noise or NoiseModel()
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
        depth = noisy_depth(self._render.depth, self.K[0, 0], self._noise, self._rng)
        rgb = noisy_color(self._render.rgb, self._rng, sigma=3.0 * self._noise.scale)
        return RgbdFrame(rgb, depth, self.K, FRAME_ID, stamp_ns)
