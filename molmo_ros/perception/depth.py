"""One trustworthy depth for one pixel.

A single depth pixel is wrong by more than a centimetre in 2-4 % of the cases: holes, flying pixels, the
background beside a thin object. A window around it is split into layers, and the layer that owns the
pixel gives a weighted median.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from molmo_ros.datatypes import Array, Depth, Image, Mask
from molmo_ros.errors import DepthError

SHADING = 0.3  # weight of a difference in lightness relative to one in hue
SAME_COLOUR = 14.0  # in 8-bit L*a*b*, weighted like this
OWN_PIXEL = 0.71  # px, half its diagonal
SMALL_HOLE = 2.0  # px: around single lost pixels no proof is needed that it is the same thing
NEAR_IN_HOLE = 2.0  # preference for the nearest layer there: a thing that is pointed at is seen in front
WINDOW_FX = 600.0  # px: of most cameras at 640x480; at 1280x720 a hole has half as many pixels again
LEAST = 12  # pixels at the rim of a hole, to read its depth from


@dataclass(frozen=True)
class DepthOptions:
    """What is known of the depth sensor, and how to read it. Defaults: a D435-like stereo camera.

    min_range_m, max_range_m: outside, a reading is OUT_OF_RANGE. baseline_m and subpixel_px: stereo noise
    sigma_z = z^2 subpixel / (f baseline) + floor_m. systematic_m: added to that for the position of a
    surface, since a measured plane waves by millimetres.
    window_px: odd size of the window; where it holds less than min_share of valid depth, wide_window_px is
    tried before giving up. Both are those of a focal length of WINDOW_FX px and grow with a longer one.
    layer_gap_m: least gap between two layers. reach_px: sigma of the Gaussian that weights pixels.
    """

    min_range_m: float = 0.1
    max_range_m: float = 4.0
    baseline_m: float = 0.05
    subpixel_px: float = 0.08
    floor_m: float = 0.0005
    systematic_m: float = 0.002
    window_px: int = 11
    wide_window_px: int = 25
    min_share: float = 0.15
    layer_gap_m: float = 0.008
    reach_px: float = 2.5
    near_preference: float = 1.25

    def sigma_m(self, z: float | Array, fx: float) -> float | Array:
        """Standard deviation of one depth reading z m, of a camera with focal length fx px."""
        return z * z * (self.subpixel_px / (fx * self.baseline_m)) + self.floor_m

    def surface_sigma_m(self, z: float, fx: float) -> float:
        """Standard deviation of the depth of a surface read at z m, however many pixels it is read from.

        Neighbouring pixels of a stereo camera share their matching window, and have the same errors.
        """
        return math.hypot(self.systematic_m, float(self.sigma_m(z, fx)))


DEFAULT_DEPTH = DepthOptions()


@dataclass(frozen=True)
class DepthReading:
    """z in m along the optical axis and its sigma_m.

    ambiguity 0..1 is the weight of the rejected layers and gap_m the median distance to pixels more than
    2 cm away (0 if none). hole_px is the distance to the nearest valid pixel, 0 if the pixel itself is. slope
    (2,) is d(1/z)/d(u,v) in 1/(m px), of the plane fitted to the chosen layer, or zeros if it holds too few
    pixels.
    """

    z: float
    sigma_m: float
    ambiguity: float
    gap_m: float
    hole_px: float
    slope: Array


def valid_depth(depth: Depth, options: DepthOptions = DEFAULT_DEPTH) -> Mask:
    """Mark the pixels (H,W) that hold a depth within range; NaN, inf, 0 and negative ones do not."""
    with np.errstate(invalid="ignore"):
        return np.asarray((depth >= options.min_range_m) & (depth <= options.max_range_m))


def robust_depth(
    depth: Depth,
    x: float,
    y: float,
    fx: float,
    options: DepthOptions = DEFAULT_DEPTH,
    rgb: Image | None = None,
) -> DepthReading:
    """Read the depth of the surface at pixel (x, y) of depth (H,W) m.

    Where the pixel itself has none, the nearest surface around it is read; with rgb (H,W,3), only where that
    has the colour of the pixel all the way, so that it is of the same thing.
    Raises: DepthError with code NO_DEPTH if the point is outside the image or too little around it has
    depth, OUT_OF_RANGE if what has depth is nearer or farther than the options allow.
    """
    height, width = depth.shape
    if not (np.isfinite(x) and np.isfinite(y) and -1 <= x <= width and -1 <= y <= height):
        raise DepthError(f"The point ({x:.0f}, {y:.0f}) is outside the image of {width}x{height}; ask again.")
    x, y = float(np.clip(x, 0, width - 1)), float(np.clip(y, 0, height - 1))
    strange = False  # whether there is depth nearby, but of something else
    for size in (_scaled(options.window_px, fx), _scaled(options.wide_window_px, fx)):
        window, du, dv = _window(depth, x, y, size)
        usable = valid_depth(window, options)
        if usable.mean() < options.min_share:
            continue
        if rgb is not None and not usable[np.hypot(du, dv) < SMALL_HOLE].any():
            usable &= _same_colour(_window(rgb, x, y, size)[0], int(np.hypot(du, dv).argmin()))
            if np.count_nonzero(usable) < LEAST:
                strange = True
                continue
        return _read_layer(window[usable].astype(np.float64), du[usable], dv[usable], fx, options)
    if strange:
        raise DepthError(
            f"The point ({x:.0f}, {y:.0f}) has no depth, and what has it within {size // 2} px differs in "
            "colour: it is transparent or shiny, and what is beside it another thing; move the camera."
        )
    raise _no_depth(window, x, y, size, options)


def _scaled(window_px: int, fx: float) -> int:
    """Return the odd size (px) of a window for a focal length of fx px."""
    return 2 * round(max(1.0, fx / WINDOW_FX) * (window_px // 2)) + 1


def _window(image: Any, x: float, y: float, size: int) -> tuple[Any, Array, Array]:
    """Cut a window out of an image (H,W,...); return it with each pixel's offset (du, dv) from (x, y)."""
    half = size // 2
    u0, v0 = round(x), round(y)
    rows = slice(max(v0 - half, 0), v0 + half + 1)
    columns = slice(max(u0 - half, 0), u0 + half + 1)
    window = image[rows, columns]
    offsets = np.indices(window.shape[:2])
    return window, offsets[1] + (columns.start - x), offsets[0] + (rows.start - y)


def _same_colour(rgb: Image, seed: int) -> Mask:
    """Mark the pixels (h,w) that are connected with a seed (its flat index) in colour."""
    import cv2

    smooth = cv2.medianBlur(np.ascontiguousarray(rgb), 3)
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB) * np.array([SHADING, 1.0, 1.0])
    change = lab - lab.reshape(-1, 3)[seed]
    alike = (np.einsum("vuc,vuc->vu", change, change) < SAME_COLOUR**2).astype(np.uint8)
    label = cv2.connectedComponents(alike, connectivity=4)[1]
    return np.asarray(label == label.ravel()[seed])


def _read_layer(z: Array, du: Array, dv: Array, fx: float, options: DepthOptions) -> DepthReading:
    """Split z (N,) into layers, choose one, and take its weighted median."""
    order = np.argsort(z, kind="stable")
    z, du, dv = z[order], du[order], dv[order]
    distance = np.hypot(du, dv)
    hole = float(distance.min())
    # in a hole the nearest valid pixels lie at its rim: distances are measured from there
    weight = np.exp(-0.5 * ((distance - hole) / options.reach_px) ** 2) + 1e-9
    sigma = options.sigma_m(z, fx)
    cuts = np.diff(z) > np.maximum(options.layer_gap_m, 4 * np.asarray(sigma)[:-1])
    layer = np.concatenate([[0], np.cumsum(cuts)])
    mass = np.bincount(layer, weights=weight)
    preference = np.ones_like(mass)
    preference[0] = options.near_preference if hole < SMALL_HOLE else NEAR_IN_HOLE
    chosen = int(np.argmax(mass * preference))
    own = layer == chosen
    near, u, v, w = z[own], du[own], dv[own], weight[own]
    plane = _inverse_plane(1 / near, u, v, w)
    # a hole is bridged along the slope of its surroundings, but never beyond the depths seen there
    bridged = float(1 / np.clip(plane[0], 1 / near[-1], 1 / near[0]))
    z0 = _weighted_median(near, w) if hole < SMALL_HOLE else bridged
    away = np.abs(z - z0) > 0.02
    return DepthReading(
        z=z0,
        sigma_m=options.surface_sigma_m(z0, fx),
        ambiguity=float(1 - mass[chosen] / mass.sum()),
        gap_m=float(np.median(np.abs(z[away] - z0))) if away.any() else 0.0,
        hole_px=0.0 if hole < OWN_PIXEL else hole,
        slope=plane[1:],
    )


def _weighted_median(values: Array, weights: Array) -> float:
    """Weighted median of sorted values (N,)."""
    total = np.cumsum(weights)
    return float(np.interp(0.5 * total[-1], total - 0.5 * weights, values))


def _inverse_plane(inverse: Array, du: Array, dv: Array, weight: Array) -> Array:
    """Fit 1/z = a + b du + c dv and return (a, b, c); a plane in space is exactly linear in 1/z.

    With too few pixels the weighted mean of 1/z, and no slope.
    """
    if inverse.size < LEAST or np.ptp(du) < 2 or np.ptp(dv) < 2:
        return np.array([np.average(inverse, weights=weight), 0.0, 0.0])
    A = np.stack([np.ones_like(du), du, dv], axis=1)
    M = A.T @ (A * weight[:, None])
    return np.asarray(np.linalg.solve(M + 1e-12 * np.trace(M) * np.eye(3), A.T @ (weight * inverse)))


def _no_depth(window: Depth, x: float, y: float, size: int, options: DepthOptions) -> DepthError:
    """Say why a window (h,w) of a size in pixels cannot be read."""
    seen = window[np.isfinite(window) & (window > 0)]
    usable = valid_depth(window, options).mean()
    if seen.size < options.min_share * window.size:
        return DepthError(
            f"Only {seen.size / window.size:.0%} of {size} px around ({x:.0f}, {y:.0f}) "
            "have depth: transparent, shiny, too near, or outside the depth camera's view; move the camera."
        )
    middle = float(np.median(seen))
    unit = " (is depth in millimetres? give metres)" if middle > 100 else ""
    return DepthError(
        f"Depth around ({x:.0f}, {y:.0f}) is {middle:.2f} m{unit} and only {usable:.0%} of it within "
        f"{options.min_range_m:g} to {options.max_range_m:g} m; move the camera or change the range limits.",
        code="OUT_OF_RANGE",
    )
