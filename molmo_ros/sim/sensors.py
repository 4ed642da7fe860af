"""Depth sensors by name, each with the errors of its kind.

    depth = sensed_depth(SensorView(render.depth, render.rgb), K, "stereo", rng)

perfect: none. stereo: RealSense D400, ZED, OAK. structured_light: Kinect v1, Xtion. tof: time of flight, as
Azure Kinect. dropout: white noise and lost pixels at edges, the model of earlier versions.
A sensor and its settings are drawn anew for each frame, so that nothing learned from them fits one camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import Array, Depth, Image
from molmo_ros.errors import ParameterError
from molmo_ros.sim.fields import pixels, smooth_field
from molmo_ros.sim.noise import NoiseModel, noisy_depth
from molmo_ros.sim.skin import DARK, SHINY, TRANSPARENT
from molmo_ros.sim.stereo import random_stereo, random_structured_light, stereo_depth
from molmo_ros.sim.tof import random_tof, tof_depth

PERFECT, STEREO, STRUCTURED_LIGHT, TOF, DROPOUT = "perfect", "stereo", "structured_light", "tof", "dropout"
SENSORS = (STEREO, STRUCTURED_LIGHT, TOF, PERFECT, DROPOUT)


@dataclass(frozen=True)
class SensorView:
    """What a sensor looks at: true depth (H,W) m along z, NaN where there is nothing; rgb (H,W,3) uint8.

    material (H,W) uint8, if known: flags of skin.py, as Render.material has. behind (H,W) m, if known: depth
    without what is TRANSPARENT, which sensors see in part.
    """

    depth: Depth
    rgb: Image
    material: np.ndarray | None = None
    behind: Depth | None = None


def check_sensor(name: str) -> str:
    """Return the name of a sensor. Raises: ParameterError for an unknown one."""
    if name not in SENSORS:
        raise ParameterError(f"There is no depth sensor {name!r}; choose from {', '.join(SENSORS)}.")
    return name


def sensed_depth(view: SensorView, K: Array, sensor: str, rng: np.random.Generator) -> Depth:
    """Depth (H,W) float32 m as a sensor measures it, aligned with the view; NaN where it measures nothing.

    K (3,3) px of the view. All randomness comes from rng: the camera, its settings and its noise.
    Raises: ParameterError for an unknown sensor.
    """
    check_sensor(sensor)
    if sensor == PERFECT:
        return view.depth.copy()
    if sensor == DROPOUT:
        return noisy_depth(view.depth, K[0, 0], NoiseModel(), rng)
    depth, weak = _through_clear(view, rng), _weak(view, rng)
    if sensor == TOF:
        return tof_depth(depth, view.rgb, K, random_tof(rng), rng, weak)
    camera = random_stereo(rng) if sensor == STEREO else random_structured_light(rng)
    return stereo_depth(depth, view.rgb, K[0, 0], camera, rng, weak)


def _weak(view: SensorView, rng: np.random.Generator) -> Array | None:
    """Share (H,W) of a surface that returns no depth, by its material."""
    if view.material is None:
        return None
    share = np.zeros(8, np.float32)
    for flag, most in ((DARK, 0.5), (SHINY, 0.5), (TRANSPARENT, 0.9)):
        share[np.arange(8) & flag > 0] += most * rng.random()
    return np.asarray(share[view.material & 7])


def _through_clear(view: SensorView, rng: np.random.Generator) -> Depth:
    """Depth (H,W) m in which patches of clear things are replaced by what is behind them."""
    if view.material is None or view.behind is None:
        return view.depth
    clear = np.asarray(view.material & TRANSPARENT > 0)
    if not clear.any():
        return view.depth
    size = pixels(25, view.depth.shape[1])
    through = clear & (smooth_field(clear.shape, size, rng) > rng.uniform(-1.5, 0.5))
    return np.where(through, view.behind, view.depth)
