"""Is this segment one thing, the one that was pointed at? Each guard returns what speaks against it, or None.

They see a mask, not its origin, so they apply to geometry, a learned mask and one from elsewhere alike.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree

from molmo_ros.datatypes import Array, Mask, ObjectSegment
from molmo_ros.errors import SegmentError
from molmo_ros.perception.cloud import pixel_spacing
from molmo_ros.perception.outline import in_hull
from molmo_ros.perception.plane import support_frame
from molmo_ros.perception.surroundings import FINE_M
from molmo_ros.transforms import invert, transform_points

CUT_PX, BAND_PX = 12, 6  # an outline this long along the border of the searched region is a cut
IMAGE_PX = 8  # a region that ends this near to the border of the image was cut by that, as is the thing
LEAST_KEPT = 0.45  # share of the depth in a mask that must be the object's own
LEAST_COMMON = 0.5  # IoU of two masks of one thing
LOAD_M2 = 1.5e-3  # this much measured surface above an object is a load; less may be its own cap
INNER = 0.3  # within its outline by this share of half its width: its edge is smeared onto what stands behind
BESIDE_M = 0.03  # the object's own height is taken from its parts seen this near
STANDS_M, ON_TOP = 0.006, 0.7  # higher than that; and that is the object's top, not the floor of a bowl
HANGS_M, GAP_PX = 0.03, 7  # what begins this high above it, and this far from it in the image, is not a load


def check_segment(segment: ObjectSegment, up: Array | None = None) -> None:
    """Raises: SegmentError with code AMBIGUOUS if the segment is hardly the one thing that was meant, or
    carries another.
    """
    for objection in (
        cut_by_region(segment.mask, segment.bounds),
        other_layers(segment.kept),
        loaded(segment, up),
    ):
        if objection is not None:
            raise SegmentError(objection, code="AMBIGUOUS")


def cut_by_region(mask: Mask, bounds: tuple[int, int, int, int] | None) -> str | None:
    """Object to a mask (H,W) cut off by the border of the searched region, but not by that of the image.

    bounds: first and last row, first and last column that were searched.
    """
    if bounds is None:
        return None
    height, width = mask.shape
    top, bottom, left, right = bounds
    bands = []
    if top > IMAGE_PX:
        bands.append(mask[top : top + BAND_PX].any(axis=0))
    if bottom < height - 1 - IMAGE_PX:
        bands.append(mask[bottom - BAND_PX + 1 : bottom + BAND_PX].any(axis=0))
    if left > IMAGE_PX:
        bands.append(mask[:, left : left + BAND_PX].any(axis=1))
    if right < width - 1 - IMAGE_PX:
        bands.append(mask[:, right - BAND_PX + 1 : right + BAND_PX].any(axis=1))
    cut = max((int(np.count_nonzero(band)) for band in bands), default=0)
    if cut < CUT_PX:
        return None
    return (
        f"The segment goes on beyond the {right - left}x{bottom - top} px around the point that were looked "
        f"at: {cut} px of its outline lie on that border. It is several things, or furniture; point at the "
        "middle of one thing, or move away what touches it."
    )


def other_layers(kept: float) -> str | None:
    """Object to a mask if only a small share `kept` of its depth belongs to one thing above the support."""
    if kept >= LEAST_KEPT:
        return None
    return (
        f"Only {kept:.0%} of the depth in the mask belongs to one thing that stands out of its support, of "
        f"{LEAST_KEPT:.0%} needed: the mask covers several surfaces; point at the middle of the thing, or "
        "look from another side."
    )


def masks_disagree(mask: Mask, other: Mask) -> str | None:
    """Object to two masks (H,W) of what should be the same thing, by their intersection over union."""
    either = int(np.count_nonzero(mask | other))
    common = np.count_nonzero(mask & other) / either if either else 0.0
    if common >= LEAST_COMMON:
        return None
    return (
        f"Two segmentations of the thing at the point have only {common:.0%} in common, of "
        f"{LEAST_COMMON:.0%} needed; point at the middle of the thing, or look from another side."
    )


def loaded(segment: ObjectSegment, up: Array | None) -> str | None:
    """Object to a thing on which another stands: it would fall when the thing is lifted.

    Or what stands there is a part of the thing that is missing from the mask. What lies in a bowl may stay
    there: beside it, the bowl is lower than its rim.
    """
    if segment.plane is None or len(segment.scene_m) == 0:
        return None
    T = support_frame(segment.plane, up, segment.cloud_m)
    own, others = transform_points(T, segment.cloud_m), transform_points(T, segment.scene_m)
    top = float(np.quantile(own[:, 2], 0.97))
    others = others[others[:, 2] > ON_TOP * top]
    (_, sides, _) = cv2.minAreaRect(own[:, :2].astype(np.float32))
    others = others[in_hull(others[:, :2], own[:, :2], -INNER * min(sides) / 2)]
    if len(others) * FINE_M**2 < LOAD_M2:
        return None
    near = cKDTree(own[:, :2]).query_ball_point(others[:, :2], BESIDE_M)
    local = np.array([np.quantile(own[of, 2], 0.8) if of else -np.inf for of in near])
    above = others[:, 2] - local
    on_top = (above > STANDS_M) & (local > ON_TOP * top)
    load = float(np.count_nonzero(on_top) * FINE_M**2)
    if load < LOAD_M2 or _hangs(segment, transform_points(invert(T), others[on_top]), above[on_top]):
        return None
    return (
        f"{1e4 * load:.0f} cm2 of something were measured above the thing at the point, within its outline: "
        "another thing stands on it, or it is a part that was not recognised; take that off first, or point "
        "at what should be taken."
    )


def _hangs(segment: ObjectSegment, load: Array, above: Array) -> bool:
    """Tell whether a load (N,3) m, above (N,) m the object, is clear of it, in space and in the image."""
    if float(above.min()) < HANGS_M:
        return False
    own, other = (points[:, :2] / points[:, 2:] for points in (segment.cloud_m, load))
    gap = float(cKDTree(own).query(other)[0].min()) * float(np.median(segment.cloud_m[:, 2]))
    return gap > GAP_PX * pixel_spacing(segment.cloud_m) + FINE_M
