"""Depth of an active stereo camera (RealSense D400, ZED, OAK): disparity found by a matching window.

It models what a matcher decides, not the images. Each pixel of a window votes for its own disparity
with the weight of its texture, and votes within the width of the correlation peak support each other (a
mean-shift mode, Comaniciu and Meer 2002). From this follow the errors of real cameras:

- jumps that are smaller than the peak become ramps as wide as the window, larger ones stay sharp;
- edges are fattened by the side with more texture, and ragged;
- what is smaller than the window vanishes in its background, and feet of things blend into the table;
- left of near things, and at the left border of the image, the second camera sees nothing.

Noise is in disparity and correlated over several pixels, so depth noise grows with z^2 and planes wave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from molmo_ros.datatypes import AnyArray, Array, Depth, Image, Index, Mask
from molmo_ros.sim.fields import REFERENCE_WIDTH, box, log_uniform, pixels, smooth_field

_MIN_DISPARITY = 1.0  # px: nothing is measured farther away
_JUMP = 0.6  # px of disparity between neighbours
_AT_ONCE = 4000  # windows: their votes stay in the cache


@dataclass(frozen=True)
class Stereo:
    """One stereo camera with its settings. Lengths in pixels are those of a 640 wide image.

    baseline m; stride: spacing of the pixels that are matched; window: side of the matching window;
    peak: half width of the correlation peak in px of disparity, its logarithm varies by peak_spread over the
    image; ragged: error of a window's votes; texture: weight of the scene's contrast relative to the
    projector's; noise, noise_size: deviation of the disparity, and how far it reaches (twice the length of
    correlation); wave, wave_size: of the slow part; step of the disparity; margin: how much farther left than
    the image the second camera sees; check: what the left-right check removes beside a shadow; doubt: width
    of the seam at jumps where neither side wins; lost: share of bright surface without depth, dark ones lose
    more; fill: whether holes are filled from their left; speckle: islands up to this many pixels are removed.
    """

    baseline: float = 0.055
    stride: int = 2
    window: float = 16.0
    peak: float = 3.0
    peak_spread: float = 0.45
    ragged: float = 0.2
    texture: float = 0.5
    noise: float = 0.07
    noise_size: float = 20.0
    wave: float = 0.06
    wave_size: float = 50.0
    step: float = 1 / 32
    margin: float = 20.0
    check: float = 3.0
    doubt: float = 0.1
    lost: float = 0.003
    fill: bool = False
    speckle: int = 150


def random_stereo(rng: np.random.Generator) -> Stereo:
    """Draw a camera and its settings."""
    return Stereo(
        baseline=float(rng.choice([0.05, 0.055, 0.075, 0.095, 0.12], p=[0.3, 0.3, 0.2, 0.1, 0.1])),
        stride=2,
        window=rng.uniform(9, 23),
        peak=log_uniform(1.5, 4.5, rng),
        peak_spread=rng.uniform(0.3, 0.6),
        ragged=rng.uniform(0.1, 0.35),
        texture=rng.uniform(0.1, 0.8),
        noise=log_uniform(0.045, 0.12, rng),
        noise_size=rng.uniform(10, 30),
        wave=rng.uniform(0.02, 0.08),
        wave_size=rng.uniform(25, 80),
        step=float(rng.choice([1 / 32, 1 / 16, 1 / 8], p=[0.7, 0.2, 0.1])),
        margin=float(rng.choice([0.0, 20.0, 80.0])) + rng.uniform(0, 20),
        check=rng.uniform(0, 6),
        doubt=rng.uniform(0.0, 0.2),
        lost=log_uniform(0.0003, 0.02, rng),
        fill=bool(rng.random() < 0.2),
        speckle=int(rng.integers(50, 300)),
    )


def stereo_depth(
    depth: Depth,
    rgb: Image,
    fx: float,
    camera: Stereo,
    rng: np.random.Generator,
    weak: Array | None = None,
) -> Depth:
    """What a stereo camera measures of true depth (H,W) m, seen in rgb (H,W,3); NaN where it finds no match.

    fx in px of this image. weak (H,W): share of a surface that cannot be matched, because it shines or is
    black or transparent.
    """
    height, width = depth.shape
    s = max(1, round(pixels(camera.stride, width)))
    per_disparity = float(fx) * REFERENCE_WIDTH / width * camera.baseline  # of a 640 wide image
    true = per_disparity / np.maximum(np.nan_to_num(depth[::s, ::s], nan=1e3, posinf=1e3), 1e-3)
    true = np.ascontiguousarray(true, np.float32)
    px = pixels(1.0, true.shape[1])  # pixels of the matched grid for one of a 640 wide image
    grey = _grey(rgb)[::s, ::s]
    contrast = _contrast(grey)
    found, sure = match(true, contrast, camera, px, rng)
    error = camera.noise * _unrest(contrast) * smooth_field(true.shape, camera.noise_size * px, rng)
    error += camera.wave * smooth_field(true.shape, camera.wave_size * px, rng)
    found = found + error
    lost = shadow(found, px, camera.check * px)
    lost |= np.arange(true.shape[1]) + camera.margin * px < found * px
    lost |= sure < camera.doubt
    lost |= _weak(grey, contrast, camera, px, rng, None if weak is None else weak[::s, ::s])
    lost |= found < _MIN_DISPARITY
    found = np.where(lost, 0, found).astype(np.float32)
    if camera.fill:
        found = fill_from_left(found)
    found = _without_speckles(found, round(camera.speckle * px * px))
    full = np.round(_enlarge(found, (width, height)) / camera.step) * camera.step
    with np.errstate(divide="ignore"):
        z = np.where(full > 0, per_disparity / full, np.nan)
    return np.asarray(np.round(z * 1000) / 1000, np.float32)


def match(
    true: Array, contrast: Array, camera: Stereo, px: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The disparity (H,W) that wins in each window, and by how much of the votes (H,W) it does.

    Where a window spans less than the peak, or slopes without a jump, the mean wins. Elsewhere the best of
    three modes does, found from the nearest, the farthest and the pixel's own disparity.
    """
    radius = max(1, round(camera.window * px / 2 - 0.5))
    square = np.ones((2 * radius + 1,) * 2, np.uint8)
    weight = 1 + camera.texture * contrast
    mean = box(true * weight, radius) / box(weight, radius)
    near, far = cv2.dilate(true, square), cv2.erode(true, square)
    peak = camera.peak * np.exp(camera.peak_spread * smooth_field(true.shape, 60 * px, rng))
    sure = np.ones_like(true)
    jump = cv2.morphologyEx(true, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > _JUMP
    by_jump = cv2.dilate(jump.astype(np.uint8), square) > 0
    doubtful = np.flatnonzero(by_jump & (near - far > peak))
    bias = [1 + camera.ragged * smooth_field(true.shape, 5 * px, rng) for _ in range(2)]
    for at in np.array_split(doubtful, len(doubtful) // _AT_ONCE + 1):
        v, u = np.divmod(at, true.shape[1])
        dv, du = _disc(radius)
        where = np.clip(v + dv, 0, true.shape[0] - 1) * true.shape[1] + np.clip(u + du, 0, true.shape[1] - 1)
        votes, weights = true.ravel()[where], weight.ravel()[where]
        starts = ((near, bias[0]), (far, bias[1]), (true, np.ones_like(true)))
        told = [_mode(votes, weights, d.ravel()[at], peak.ravel()[at], b.ravel()[at]) for d, b in starts]
        mean.ravel()[at], sure.ravel()[at] = _winner(*zip(*told, strict=True))
    return mean, sure


def _winner(modes: Sequence[Array], scores: Sequence[Array]) -> tuple[Array, Array]:
    """The mode (N,) with the best score, and how far (N,) the next one is behind, 0 to 1."""
    mode, score = np.array(modes), np.array(scores)
    best = score.argmax(0)[None]
    won = np.take_along_axis(mode, best, 0)[0]
    rival = np.where(np.abs(mode - won) > 1.0, score, 0).max(0)
    return won, 1 - rival / np.take_along_axis(score, best, 0)[0]


def _mode(votes: Array, weights: Array, start: AnyArray, peak: Array, bias: Array) -> tuple[Array, Array]:
    """Mean shift of (N,) starts over votes (M,N) with an Epanechnikov kernel: the modes and their scores."""
    mode = start
    for _ in range(2):
        inside = np.where(np.abs(votes - mode) < peak, weights, 0)
        total = np.maximum(inside.sum(0), 1e-6)
        mode = (inside * votes).sum(0) / total
    return mode, total * bias


def _disc(radius: int) -> tuple[Index, Index]:
    """Offsets (M,1) of a disc: a quincunx of about 20 pixels, the middle among them."""
    step = max(1, radius // 3)
    r = step * np.arange(-(radius // step), radius // step + 1)
    dv, du = (a.ravel() for a in np.meshgrid(r, r, indexing="ij"))
    inside = (dv**2 + du**2 <= (radius + 0.5) ** 2) & ((dv + du) // step % 2 == 0)
    return dv[inside, None], du[inside, None]


def shadow(disparity: Array, px: float, check: float) -> Mask:
    """Pixels (H,W) that the right camera cannot see, since something nearer covers them there.

    Left of them, check more pixels are dropped: both cameras' disparities differ there.
    """
    right = np.arange(disparity.shape[1], dtype=np.float32) - disparity * px
    nearest = np.minimum.accumulate(right[:, ::-1], axis=1)[:, ::-1]
    hidden = (right > nearest + 0.5).astype(np.uint8)
    wider = np.ones((1, round(check) + 1), np.uint8)
    return cv2.dilate(hidden, wider, anchor=(0, 0)) > 0


def fill_from_left(disparity: Array) -> Array:
    """Each hole takes the last disparity left of it, as hole filters of drivers do."""
    column = np.where(disparity > 0, np.arange(disparity.shape[1]), 0)
    return np.take_along_axis(disparity, np.maximum.accumulate(column, axis=1), 1)


def _grey(rgb: Image) -> Array:
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.float32)


def _contrast(grey: Array) -> Array:
    """Contrast (H,W) around a pixel, 0 to 1."""
    return np.asarray(np.clip(box(np.abs(grey - box(grey, 1)), 2) / 12, 0, 1))


def _unrest(contrast: Array) -> Array:
    """Plain surfaces are matched worse."""
    return np.asarray(1.5 - contrast)


def _weak(
    grey: Array, contrast: Array, camera: Stereo, px: float, rng: np.random.Generator, known: Array | None
) -> Mask:
    """Pixels (H,W) whose match is not trusted: the dark, the glaring, and those of bad surfaces."""
    light = box(grey, 2)
    glare = np.clip((light - 235) / 15, 0, 1) * np.clip((light - box(grey, round(20 * px)) - 30) / 30, 0, 1)
    dark = np.clip((40 - light) / 30, 0, 1) * (1 - contrast)
    weak = camera.lost * (0.3 + 3 * dark) + 0.6 * glare
    if known is not None:
        weak = weak + known
    luck = smooth_field(grey.shape, 9 * px, rng)
    return np.asarray(luck > _quantile(1 - np.clip(weak, 0, 0.97)))


def _quantile(share: Array) -> Array:
    """The normal quantile, by the logistic approximation of Tocher (1963)."""
    return np.asarray(np.log(share / (1 - share + 1e-6)) / 1.702)


def _without_speckles(disparity: Array, size: int) -> Array:
    """Remove islands of up to size pixels that differ from everything around."""
    fixed = np.minimum(disparity * 16, 32000).astype(np.int16)
    cv2.filterSpeckles(fixed, 0, size, 24)
    return np.where(fixed > 0, disparity, 0)


def _enlarge(disparity: Array, size: tuple[int, int]) -> Array:
    """To full size: linear on surfaces, in steps at jumps and holes."""
    if disparity.shape[::-1] == size:
        return disparity
    near = cv2.resize(disparity, size, interpolation=cv2.INTER_NEAREST)
    linear = cv2.resize(disparity, size, interpolation=cv2.INTER_LINEAR)
    return np.where(np.abs(linear - near) < 0.5, linear, near)


def random_structured_light(rng: np.random.Generator) -> Stereo:
    """Draw a structured-light camera (Kinect v1, Xtion, PrimeSense): camera and projector form the stereo
    pair.

    Windows of about 9 px around projected dots are found again in steps of 1/8 px, so depth is in steps that
    grow with z^2 (Khoshelham and Elberink 2012); edges lose a band; there is no texture but the projector's.
    """
    return Stereo(
        baseline=0.075,
        window=rng.uniform(6, 11),
        peak=rng.uniform(0.8, 1.5),
        peak_spread=0.1,
        ragged=rng.uniform(0.1, 0.3),
        texture=0.0,
        noise=rng.uniform(0.04, 0.1),
        noise_size=rng.uniform(1, 4),
        wave=rng.uniform(0.02, 0.06),
        wave_size=rng.uniform(40, 100),
        step=1 / 8,
        margin=80.0,
        check=rng.uniform(1, 3),
        doubt=rng.uniform(0.3, 0.6),
        lost=log_uniform(0.001, 0.02, rng),
        speckle=int(rng.integers(50, 200)),
    )
