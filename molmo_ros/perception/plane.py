"""The plane that an object stands on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.transforms import frame_with_z, make_transform, unit


@dataclass(frozen=True)
class PlaneOptions:
    """samples points and hypotheses of the search; tilt_deg: widest angle to a known "up";
    min_share: of the points near the object that must lie on a plane for it to count."""

    samples: int = 1500
    hypotheses: int = 160
    tilt_deg: float = 25.0
    min_share: float = 0.1
    seed: int = 0


DEFAULT_PLANE = PlaneOptions()
FIRST_LOOK, SECOND_LOOK = 250, 16  # points, and planes


def support_plane(
    points: Array,
    on_top: Array,
    tolerance: float,
    up: Array | None = None,
    options: PlaneOptions = DEFAULT_PLANE,
) -> Array | None:
    """Find the plane (4,) below the point on_top (3,) among camera-frame points (N,3), or None.

    n.x + d is the height above it in m. tolerance m is what counts as on the plane. `up` (3,) limits the
    tilt; without it n looks to the camera's side. A support has next to nothing below it, so hypotheses
    are ranked by points on minus points below. Source: RANSAC, all hypotheses at once.
    """
    if len(points) < 50:
        return None
    rng = np.random.default_rng(options.seed)
    sample = points[rng.integers(0, len(points), min(options.samples, len(points)))]
    planes = _hypotheses(sample, up, options, rng)
    # the support is below what stands on it; 1 cm of slack in case a point was read too low
    planes = planes[planes[:, :3] @ on_top + planes[:, 3] > -max(0.01, 2 * tolerance)]
    if len(planes) == 0:
        return None
    # a first pass over few points leaves the few planes that are worth a second
    promising = np.argsort(-_score(planes, sample[:FIRST_LOOK], tolerance)[0])[:SECOND_LOOK]
    score, on = _score(planes[promising], sample, tolerance)
    best = int(np.argmax(score))
    if on[best] < options.min_share * len(sample) or score[best] <= 0:
        return None
    return _refined(points, planes[promising[best]], tolerance)


def _score(planes: Array, points: Array, tolerance: float) -> tuple[Array, Array]:
    """Count, for each plane (H,4), the points on it minus the points below it, and the points on it."""
    height = planes[:, :3].astype(np.float32) @ points.T.astype(np.float32) + planes[:, 3:].astype(np.float32)
    on = np.count_nonzero(np.abs(height) < tolerance, axis=1)
    below = np.count_nonzero((height < -2 * tolerance) & (height > -0.15), axis=1)
    return on - below, on


def _hypotheses(sample: Array, up: Array | None, options: PlaneOptions, rng: np.random.Generator) -> Array:
    """Draw planes (H,4) through three points each, and level ones through single points if up is known."""
    a, b, c = sample[rng.integers(0, len(sample), (3, options.hypotheses))]
    n = np.cross(b - a, c - a)
    length = np.linalg.norm(n, axis=1)
    n, a = n[length > 1e-6] / length[length > 1e-6, None], a[length > 1e-6]
    if up is not None:
        level = sample[rng.integers(0, len(sample), options.hypotheses // 2)]
        n, a = np.concatenate([n, np.broadcast_to(up, level.shape)]), np.concatenate([a, level])
        n = np.where((n @ up < 0)[:, None], -n, n)
        steep = n @ up < np.cos(np.radians(options.tilt_deg))
        n, a = n[~steep], a[~steep]
    d = -np.sum(n * a, axis=1)
    if up is None:  # the camera, at the origin, is above what it sees
        n, d = np.where((d < 0)[:, None], -n, n), np.abs(d)
    return np.concatenate([n, d[:, None]], axis=1)


def _refined(points: Array, plane: Array, tolerance: float) -> Array:
    """Fit the plane to its inliers among points (N,3) by least squares, twice."""
    points = points[:: max(1, len(points) // 3_000)]
    for _ in range(2):
        near = points[np.abs(points @ plane[:3] + plane[3]) < tolerance]
        if len(near) < 10:
            break
        middle = np.ones(len(near)) @ near / len(near)
        n = np.linalg.eigh((near - middle).T @ (near - middle))[1][:, 0]
        n = n if n @ plane[:3] > 0 else -n
        plane = np.append(n, -n @ middle)
    return plane


def support_frame(plane: Array | None, up: Array | None, cloud: Array) -> Array:
    """Return T_support_camera (4,4): z away from the support, z = 0 on it, the origin below the cloud (N,3).

    Without a plane, z is `up`, or else up as in an upright image, and z = 0 at the lowest point.
    """
    if plane is not None:
        z, height = plane[:3], float(plane[3])
    else:
        z = unit(up) if up is not None else np.array([0.0, -1.0, 0.0])
        height = -float((cloud @ z).min())
    R = frame_with_z(z, np.array([0.0, 0.0, 1.0])).T
    T = make_transform(R, -R @ cloud.mean(axis=0))
    T[2, 3] = height
    return T
