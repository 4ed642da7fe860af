"""Is the depth around a point good enough to plan a grasp by, to millimetres?"""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Depth, RgbdFrame
from molmo_ros.errors import SegmentError
from molmo_ros.perception.depth import DEFAULT_DEPTH, DepthOptions
from molmo_ros.perception.region import Region

RADIUS_M, SPACING_M = 0.12, 0.002
PATCH_M = 0.006  # side of the patches over which depth is averaged
LEAST_KNOWN = 0.7  # share of a patch that must have depth
ENOUGH = 200  # patches; with fewer there is no verdict
TO_SIGMA = 1.4826  # median of absolute deviations to the standard deviation of a normal distribution
# RealSense D435, Kinect, simulated stereo: up to 2 mm, or 1.6 times the noise of one reading at that
# distance; a D405 over bare cloth and glaze, where most grasps were bad: 2.3 to 5 mm, 1.8 to 5 times
ROUGH_M, ROUGH = 0.0025, 1.7


def check_roughness(frame: RgbdFrame, position: Array, options: DepthOptions = DEFAULT_DEPTH) -> None:
    """Raises: SegmentError with code AMBIGUOUS if depth around position (3,) m is too rough for a grasp.

    In the bumps and dents of a flat surface a planner sees edges to grip, and room for fingers.
    """
    region = Region.around(frame, np.asarray(position, dtype=np.float64), RADIUS_M, SPACING_M, options)
    found, most = roughness(region), max(ROUGH_M, ROUGH * region.sigma)
    if found <= most:
        return
    raise SegmentError(
        f"The depth around the point is too rough for a grasp: what should be smooth has bumps of "
        f"{1000 * found:.1f} mm, of at most {1000 * most:.1f} mm at {position[2]:.2f} m. A stereo camera "
        "finds little to match on bare or shining surfaces: come closer, switch its projector on, or add "
        "light or texture.",
        code="AMBIGUOUS",
    )


def roughness(region: Region) -> float:
    """Return how high (m) the bumps of a region are: how much the means of patches scatter about each other.

    The contribution of the noise of single readings, which averages out, is subtracted.
    """
    side = max(1, round(PATCH_M / region.spacing))
    known = np.isfinite(region.z)
    share = cv2.blur(known.astype(np.float32), (side, side))
    mean = cv2.blur(np.where(known, region.z, np.float32(0)), (side, side))
    patches = np.where(share > LEAST_KNOWN, mean / np.maximum(share, np.float32(LEAST_KNOWN)), np.nan)
    return float(np.sqrt(max(_scatter(patches, side) ** 2 - (_scatter(region.z, 1) / side) ** 2, 0.0)))


def _scatter(z: Depth, apart: int) -> float:
    """Return the standard deviation (m) estimated from second differences of z (h,w) m, some cells apart.

    Along rows and columns, robust: slopes do not count, and edges hardly do.
    """
    across = z[:, : -2 * apart] + z[:, 2 * apart :] - 2 * z[:, apart:-apart]
    along = z[: -2 * apart] + z[2 * apart :] - 2 * z[apart:-apart]
    bends = np.concatenate([across.ravel(), along.ravel()])
    bends = np.abs(bends[np.isfinite(bends)])
    return TO_SIGMA * float(np.median(bends)) / 6.0**0.5 if len(bends) >= ENOUGH else 0.0
