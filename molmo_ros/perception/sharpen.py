"""A mask's outline, moved to where colour changes: a network's cells and smeared depth are coarse."""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import AnyArray, Array, Image, Index, Mask

BAND_PX, WINDOW_PX = 5, 13  # how far an outline may move, and half the window from which colours are learned
LIGHTNESS = 0.6  # weight of a difference in lightness relative to one in hue: things are shaded
LEAST_SPREAD = 60.0  # least variance of any surface's colour, 8-bit L*a*b*
PRIOR = 1.0  # log-odds at the border of the band, for what the mask said
MOST, SMOOTH_PX = 6.0, 1.0  # log-odds of one pixel at most, and over how far they are averaged
LEAST_SAMPLES = 5
LEAST_COMMON = 0.5  # IoU with the original mask; a thing whose colour tells nothing keeps its outline


def sharpened(rgb: Image, mask: Mask, scale: float = 1.0) -> Mask:
    """Move the outline of a mask (H,W) to where colour changes in rgb (H,W,3), by at most BAND_PX, scaled.

    Each pixel near the outline goes to the side whose colours around it, a normal distribution in a window,
    fit it better. scale: resolution relative to that for which BAND_PX is meant, above 1 in larger images.
    Source: localized colour models, as in Bai et al. 2009 (Video SnapCut).
    """
    cut = _around(mask, scale)
    if cut is None:
        return mask
    part, colours = mask[cut], rgb[cut]
    size = part.shape
    if scale > 1:  # so that a large image costs no more
        small = max(round(size[1] / scale), 1), max(round(size[0] / scale), 1)
        colours = np.asarray(cv2.resize(colours, small, interpolation=cv2.INTER_AREA), np.uint8)
        part = np.asarray(cv2.resize(part.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST) > 0)
    odds = _log_odds(np.ascontiguousarray(colours), part.astype(np.uint8))
    if scale > 1:
        odds = np.asarray(cv2.resize(odds, size[::-1], interpolation=cv2.INTER_LINEAR))
    result = np.zeros_like(mask)
    result[cut] = odds > 0
    common, either = np.count_nonzero(result & mask), np.count_nonzero(result | mask)
    return result if common > LEAST_COMMON * either else mask


def _around(mask: Mask, scale: float) -> tuple[slice, slice] | None:
    """Return the part of the image that a mask (H,W) and the surroundings that tell its background lie in."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    wide = round((BAND_PX + WINDOW_PX) * max(scale, 1.0))
    v, u = (slice(max(int(i[0]) - wide, 0), int(i[-1]) + wide + 1) for i in (rows, columns))
    return v, u


def _log_odds(rgb: Image, mask: AnyArray) -> Array:
    """Return the log-odds (h,w) of each pixel belonging to the thing in a mask (h,w) uint8."""
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32) * np.array([LIGHTNESS, 1, 1], np.float32)
    inside = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    core = inside >= min(BAND_PX, 0.4 * float(inside.max()))  # for a thin thing, its middle
    around = outside > BAND_PX
    signed = np.where(mask > 0, inside, -outside).astype(np.float32) / BAND_PX
    row, column = np.nonzero(~(core | around))
    band = row, column
    there, of_thing = _fit(lab, core, band)
    beyond, of_rest = _fit(lab, around, band)
    told = (there >= LEAST_SAMPLES) & (beyond >= LEAST_SAMPLES)
    odds = np.where(core, np.float32(MOST), np.float32(-MOST))
    odds[band] = np.clip(np.where(told, of_thing - of_rest, 0) + PRIOR * signed[band], -MOST, MOST)
    odds = np.asarray(cv2.GaussianBlur(odds, (0, 0), SMOOTH_PX))
    known = band[0][told], band[1][told]
    signed[known] = odds[known]
    return signed


def _fit(lab: AnyArray, chosen: Mask, where: tuple[Index, Index]) -> tuple[Array, Array]:
    """Return, for pixels (K,), (K,), how many chosen ones (h,w) the window of each holds, and how well its
    colour fits them.
    """
    side = (2 * WINDOW_PX + 1,) * 2
    weight = chosen.astype(np.float32)
    own = lab * weight[..., None]
    count = cv2.boxFilter(weight, -1, side, normalize=False)[where]
    some = np.maximum(count, 1.0)[:, None]
    mean = cv2.boxFilter(own, -1, side, normalize=False)[where] / some
    square = cv2.boxFilter(own * lab, -1, side, normalize=False)[where] / some
    spread = np.maximum(square - mean**2, 0) + LEAST_SPREAD
    fit = -0.5 * ((lab[where] - mean) ** 2 / spread + np.log(spread)).sum(axis=1)
    return np.asarray(count), np.asarray(fit)
