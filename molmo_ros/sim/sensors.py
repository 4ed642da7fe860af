"""Depth sensors by name, each with the errors of its kind.

    depth = sensed_depth(SensorView(render.depth, render.rgb), K, "stereo", rng)

perfect: none. stereo: RealSense D400, ZED, OAK. structured_light: Kinect v1, Xtion. tof: time of flight, as
Azure Kinect. dropout: white noise and lost pixels at edges, the model of earlier versions.
A sensor and its settings are drawn anew for each frame, so that nothing learned from them fits one camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import Array, Depth, Image, Mask
from molmo_ros.errors import ParameterError
from molmo_ros.sim.fields import pixels, smooth_field
from molmo_ros.sim.noise import NoiseModel, noisy_depth
from molmo_ros.sim.stereo import random_stereo, stereo_depth

PERFECT, STEREO, STRUCTURED_LIGHT, TOF, DROPOUT = "perfect", "stereo", "structured_light", "tof", "dropout"
SENSORS = (STEREO, STRUCTURED_LIGHT, TOF, PERFECT, DROPOUT)
MATTE, BLACK, SHINY, CLEAR = range(4)  # materials, as a depth sensor meets them


@dataclass(frozen=True)
class SensorView:
    """What there is to see: true depth (H,W) m along z, NaN where nothing is; rgb (H,W,3) uint8.

    material (H,W), if known: MATTE, BLACK, SHINY or CLEAR; behind (H,W) m, if known: depth without what is
    CLEAR, which sensors see in part.
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

    K (3,3) px of the view. All that is random comes from rng: the camera, its settings and its noise.
    Raises: ParameterError for an unknown sensor.
    """
    check_sensor(sensor)
    if sensor == PERFECT:
        return view.depth.copy()
    if sensor == DROPOUT:
        return noisy_depth(view.depth, K[0, 0], NoiseModel(), rng)
    depth, bad = _through_clear(view, rng), _bad(view)
    if sensor == STEREO:
        return stereo_depth(depth, view.rgb, K[0, 0], random_stereo(rng), rng, bad)
    raise ParameterError(f"{sensor} is not there yet")


def _bad(view: SensorView) -> Mask | None:
    return None if view.material is None else np.asarray(view.material != MATTE)


def _through_clear(view: SensorView, rng: np.random.Generator) -> Depth:
    """Depth (H,W) m in which patches of clear things are replaced by what is behind them."""
    if view.material is None or view.behind is None:
        return view.depth
    clear = np.asarray(view.material == CLEAR)
    if not clear.any():
        return view.depth
    size = pixels(25, view.depth.shape[1])
    through = clear & (smooth_field(clear.shape, size, rng) > rng.uniform(-1.5, 0.5))
    return np.where(through, view.behind, view.depth)
