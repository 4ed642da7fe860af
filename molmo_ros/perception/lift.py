"""From a pixel to a point in space, with an honest covariance."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array, CameraPoint, ImagePoint, RgbdFrame
from molmo_ros.perception.depth import DEFAULT_DEPTH, DepthOptions, DepthReading, robust_depth

BRIDGED = 0.3  # error of the depth across a hole, as a share of how much it falls or rises to the hole's rim
MIN_INCIDENCE = 0.15  # |n.r| / |r| is floored here: at a grazing view the slope is not to be trusted


def pixel_ray(x: float, y: float, K: Array) -> Array:
    """Return the ray (3,) through pixel (x, y), scaled to z = 1."""
    return np.array([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], 1.0])


def lift_point(frame: RgbdFrame, point: ImagePoint, options: DepthOptions = DEFAULT_DEPTH) -> CameraPoint:
    """Deproject an image point to the camera optical frame, in m.

    In a hole of the depth, of up to some pixels, the surface around it that has the same colour is taken.
    The frame must have passed `camera_info.check_frame`. Raises: DepthError (NO_DEPTH, OUT_OF_RANGE).
    Source: pinhole model; depth is along z (REP-118).
    """
    K = np.asarray(frame.K, dtype=np.float64)
    reading = robust_depth(frame.depth, point.x, point.y, float(K[0, 0]), options, frame.rgb)
    ray = pixel_ray(point.x, point.y, K)
    return CameraPoint(
        position=reading.z * ray,
        covariance=point_covariance(reading, ray, K, np.asarray(point.covariance, dtype=np.float64)),
        ambiguity=reading.ambiguity,
        hole_px=reading.hole_px,
    )


def depth_gradient(reading: DepthReading, ray: Array, K: Array) -> Array:
    """Return dz/d(u,v) (2,) m/px of the surface at the reading, limited at grazing incidence.

    With n the normal of the surface, dz/du = -z n_x / (fx n.r); n.r is floored at MIN_INCIDENCE |r|.
    """
    bu, bv = reading.slope
    fx, fy = K[0, 0], K[1, 1]
    # 1/z = n.r / d, hence n is proportional to the gradient of 1/z with respect to r
    n = np.array([bu * fx, bv * fy, 1 / reading.z - bu * fx * ray[0] - bv * fy * ray[1]])
    n /= np.linalg.norm(n)
    incidence = max(float(n @ ray), MIN_INCIDENCE * float(np.linalg.norm(ray)))
    return np.asarray(-reading.z * n[:2] / (np.array([fx, fy]) * incidence))


def point_covariance(reading: DepthReading, ray: Array, K: Array, pixel_covariance: Array) -> Array:
    """Propagate the pixel's covariance (2,2) px^2, the depth noise and the layer ambiguity to (3,3) m^2.

    Sigma = J diag(Sigma_uv, sigma_z^2) J^T + a D^2 r r^T with J = [(z/fx) e1 + g_u r, (z/fy) e2 + g_v r, r],
    g the slope of the surface, a the ambiguity and D the gap to the other layer. In a hole the surface is not
    seen, and its slope may differ from that at the rim: sigma_z is larger for that reason.
    """
    g = depth_gradient(reading, ray, K)
    J = np.stack([g[0] * ray, g[1] * ray, ray], axis=1)
    J[0, 0] += reading.z / K[0, 0]
    J[1, 1] += reading.z / K[1, 1]
    inner = np.zeros((3, 3))
    inner[:2, :2] = pixel_covariance
    inner[2, 2] = reading.sigma_m**2 + (BRIDGED * reading.hole_px * float(np.linalg.norm(g))) ** 2
    doubt = reading.ambiguity * reading.gap_m**2
    return np.asarray(J @ inner @ J.T + doubt * np.outer(ray, ray))
