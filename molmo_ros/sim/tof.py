"""Depth of a time-of-flight camera (Azure Kinect, Kinect v2, L515-like): light that comes back late.

Each pixel measures the phase of all light that falls on it. So at edges, where lens and pixel mix near and
far light, depth lies between both (flying pixels); in concave corners indirect light makes depth longer and
corners rounder; noise grows where little light comes back. There is no second camera and no shadow. Sources:
Foix, Alenya and Torras 2011; Tölgyessy et al. 2021 for the Azure Kinect's noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from molmo_ros.datatypes import AnyArray, Array, Depth, Float32, Image
from molmo_ros.sim.fields import log_uniform, pixels, smooth_field

_NOTHING = 20.0  # m: no light comes back from farther
_DEEPEST = 0.06  # m: a deeper hollow is a jump


@dataclass(frozen=True)
class TimeOfFlight:
    """One camera with its settings. Lengths in pixels are those of a 640 wide image.

    blur: deviation of the spot that a pixel sees; mixing: share of light that is scattered in the lens, over
    scatter pixels; multipath: share of the depth of a hollow, reach pixels wide, that light from around it
    adds; noise: deviation in m of a white surface that looks at the camera from 1 m; wiggle: m, error that
    repeats with distance; flying: m, deviation of the depths in a pixel from which on it is removed;
    weakest: returned light below which a pixel has no depth, in shares of white at 1 m.
    """

    blur: float = 0.9
    mixing: float = 0.02
    scatter: float = 12.0
    multipath: float = 0.15
    reach: float = 40.0
    noise: float = 0.0012
    wiggle: float = 0.001
    flying: float = 0.03
    weakest: float = 0.01


def random_tof(rng: np.random.Generator) -> TimeOfFlight:
    """Draw a camera and its settings."""
    return TimeOfFlight(
        blur=rng.uniform(0.6, 1.6),
        mixing=rng.uniform(0.0, 0.04),
        scatter=rng.uniform(6, 20),
        multipath=rng.uniform(0.05, 0.3),
        reach=rng.uniform(20, 60),
        noise=rng.uniform(0.0006, 0.0025),
        wiggle=rng.uniform(0.0, 0.002),
        flying=float(rng.choice([0.02, 0.04, 1.0])),
        weakest=log_uniform(0.003, 0.02, rng),
    )


def tof_depth(
    depth: Depth,
    rgb: Image,
    K: Array,
    camera: TimeOfFlight,
    rng: np.random.Generator,
    weak: Array | None = None,
) -> Depth:
    """What a time-of-flight camera measures of true depth (H,W) m along z; NaN where no light comes back.

    rgb (H,W,3) gives how much light surfaces return; K (3,3) px; weak (H,W): share of the light that is lost
    on dark, shining or transparent surfaces.
    """
    width = depth.shape[1]
    z = np.nan_to_num(depth, nan=_NOTHING, posinf=_NOTHING).astype(np.float32)
    light = _albedo(rgb) * _facing(z, K) / z**2
    if weak is not None:
        light *= 1 - weak
    light *= z < _NOTHING
    spot = pixels(camera.blur, width)
    seen, power = _mixed(z, light, spot)
    far_seen, far_power = _mixed(z, light, pixels(camera.scatter, width))
    share = camera.mixing * far_power / np.maximum(power + camera.mixing * far_power, 1e-9)
    seen = seen + share * (far_seen - seen)
    seen += camera.multipath * _way_round(z, pixels(camera.reach, width))
    seen += camera.wiggle * np.sin(2 * np.pi * seen / 0.3 + rng.uniform(0, 2 * np.pi))
    deviation = camera.noise / np.sqrt(np.maximum(power, 1e-4))
    seen += deviation * smooth_field(z.shape, pixels(2, width), rng)
    spread = _spread(z, light, spot)
    lost = (power < camera.weakest) | (spread > camera.flying) | (z >= _NOTHING)
    return np.where(lost, np.nan, np.round(seen * 1000) / 1000).astype(np.float32)


def _albedo(rgb: Image) -> Array:
    """Light (H,W) that a surface returns, 0 to 1, estimated from its colour (linear)."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    return np.asarray(np.maximum(cv2.GaussianBlur(grey, (0, 0), 1.0) ** 2.2, 0.02))


def _facing(z: Float32, K: Array) -> Array:
    """Cosine (H,W) between the surface and the ray that meets it."""
    log = np.log(z)
    du = cv2.Sobel(log, cv2.CV_32F, 1, 0, scale=1 / 8) * np.float32(K[0, 0])
    dv = cv2.Sobel(log, cv2.CV_32F, 0, 1, scale=1 / 8) * np.float32(K[1, 1])
    return np.asarray(1 / np.sqrt(1 + du**2 + dv**2))


def _mixed(z: Float32, light: Array, sigma: float) -> tuple[Array, Array]:
    """Mean depth of the light that falls on a pixel, and how much it is."""
    power = _blurred(light, sigma)
    return _blurred(light * z, sigma) / np.maximum(power, 1e-9), power


def _spread(z: Float32, light: Array, sigma: float) -> Array:
    """Deviation m of the depths that a pixel mixes."""
    middle = np.float32(np.median(z))  # float32: squares of small numbers
    first, power = _mixed(z - middle, light, sigma)
    second = _blurred(light * (z - middle) ** 2, sigma) / np.maximum(power, 1e-9)
    return np.asarray(np.sqrt(np.maximum(second - first**2, 0)))


def _way_round(z: Float32, reach: float) -> Array:
    """How far m a pixel lies in a hollow of reach px: what stands around throws light into it."""
    deep = np.clip(z - _blurred(np.minimum(z, 3.0), reach), 0, _DEEPEST)
    return _blurred(np.where(z < 3.0, deep, 0), reach / 4)


def _blurred(image: AnyArray, sigma: float) -> Array:
    """Gaussian blur; wide ones on a coarse grid."""
    if sigma < 6:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma))
    step = int(sigma // 3)
    height, width = image.shape
    small = cv2.resize(image, (max(width // step, 1), max(height // step, 1)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / step), (width, height)))
