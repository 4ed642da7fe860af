"""Does a thing stand alone, with nothing but its support around it?"""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Mask, ObjectSegment, RgbdFrame
from molmo_ros.perception.depth import valid_depth

FROM_M, TO_M = 0.004, 0.012  # beside the outline; nearer, stereo smears
FLOOR_M, FLOOR_SHARE = 0.008, 0.010  # anything lower, in m or as a share of its depth, is the support
LEAST_KNOWN = 0.6  # share of its surroundings that must have been measured
LARGEST_M = 0.30  # across; anything larger is several things on their support


def floor_around(frame: RgbdFrame, segment: ObjectSegment) -> float:
    """Return the share 0..1 of what was measured right around a segment that is its support.

    0 if the support is not known, too little was measured there, or the segment is too large to be one thing.
    Things that touch others have little: on real frames of heaps at most .75, while things that stand alone
    have .8 or more.
    """
    if segment.plane is None or not 0 < _across(segment) <= LARGEST_M:
        return 0.0
    pixels = float(frame.K[0, 0] / np.median(segment.cloud_m[:, 2]))
    near = max(1, round(FROM_M * pixels))
    far = max(near + 2, round(TO_M * pixels))
    v, u = np.nonzero(_wider(segment, far) & ~_wider(segment, near))
    known = valid_depth(frame.depth[v, u])
    if np.count_nonzero(known) < max(LEAST_KNOWN * len(known), 1):
        return 0.0
    u, v = u[known], v[known]
    depth = frame.depth[v, u].astype(np.float64)
    x, y = (u - frame.K[0, 2]) / frame.K[0, 0], (v - frame.K[1, 2]) / frame.K[1, 1]
    height = depth * (segment.plane[0] * x + segment.plane[1] * y + segment.plane[2]) + segment.plane[3]
    return float(np.mean(height < np.maximum(FLOOR_M, FLOOR_SHARE * depth)))


def _across(segment: ObjectSegment) -> float:
    """Return the diagonal in m of what was measured of a segment, 0 if nothing was."""
    return float(np.linalg.norm(np.ptp(segment.cloud_m, axis=0))) if len(segment.cloud_m) else 0.0


def _wider(segment: ObjectSegment, by: int) -> Mask:
    """Return the mask (H,W), dilated by a number of pixels."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1, 2 * by + 1))
    return np.asarray(cv2.dilate(segment.mask.astype(np.uint8), disc) > 0)
