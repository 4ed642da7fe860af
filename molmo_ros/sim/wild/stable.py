"""In which poses a body rests on a table: the faces of its convex hull that its centre of mass is above."""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from molmo_ros.datatypes import Array
from molmo_ros.sim.mesh import Mesh

KEPT, TRIED = 8, 16
LEAST_MARGIN = 0.004  # of the hull's size: how far inside of its support the centre of mass must be


def stable_poses(body: Mesh) -> tuple[Array, Array]:
    """Poses (P,4,4) in which a body rests on z = 0, its centre of mass above the origin, and shares (P,).

    The shares sum to 1. That of a face grows with the solid angle under which the centre of mass sees it, as
    for a thing that is thrown down. The pose as made is the first, if it is among them.
    """
    points = body.vertices
    try:
        hull = ConvexHull(points)
    except QhullError:
        return np.eye(4)[None], np.ones(1)
    centre, size = _centre_of_mass(points, hull), float(np.ptp(points, axis=0).max())
    planes, owner = np.unique(np.round(hull.equations, 3), axis=0, return_inverse=True)
    owner = owner.ravel()
    corners = points[hull.simplices]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    height = -(hull.equations[:, :3] @ centre + hull.equations[:, 3])
    weight = np.bincount(owner, area / np.maximum(height, 1e-4) ** 2, len(planes))
    made = planes[:, 2] < -0.999
    order = np.argsort(-(weight + 1e9 * made))[:TRIED]
    poses, shares = [], []
    for k in order:
        members = np.flatnonzero(owner == k)
        normal = hull.equations[members[0], :3]
        if _margin(points[np.unique(hull.simplices[members])], centre, normal) > LEAST_MARGIN * size:
            poses.append(_standing(-normal, centre, float(height[members[0]])))
            shares.append(weight[k])
        if len(poses) == KEPT:
            break
    if not poses:
        return np.eye(4)[None], np.ones(1)
    return np.stack(poses), np.array(shares) / np.sum(shares)


def _centre_of_mass(points: Array, hull: ConvexHull) -> Array:
    """(3,) of the hull, filled evenly."""
    middle = points[hull.vertices].mean(axis=0)
    corners = points[hull.simplices] - middle
    volume = np.abs(np.linalg.det(corners))
    return np.asarray(
        middle + (corners.sum(axis=1) / 4 * volume[:, None]).sum(axis=0) / max(volume.sum(), 1e-18)
    )


def _margin(flat: Array, centre: Array, normal: Array) -> float:
    """How far (m) inside of a face with corners (N,3) the centre of mass is, along its normal; < 0: out."""
    x = np.cross(np.eye(3)[int(np.argmin(np.abs(normal)))], normal)
    x /= np.linalg.norm(x)
    plane = np.stack([x, np.cross(normal, x)], axis=1)
    try:
        outline = ConvexHull(flat @ plane)
    except (QhullError, ValueError):
        return -1.0
    return -float((outline.equations[:, :2] @ (centre @ plane) + outline.equations[:, 2]).max())


def _standing(up: Array, centre: Array, height: float) -> Array:
    """Pose (4,4) with `up` (3,), of the body, pointing up, and the centre of mass at (0, 0, height)."""
    axis, c = np.cross(up, [0.0, 0.0, 1.0]), float(up[2])
    R = np.diag([1.0, -1.0, -1.0])
    if c > -0.999999:
        K = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        R = np.eye(3) + K + K @ K / (1 + c)
    T = np.eye(4)
    T[:3, :3] = R
    T[:3, 3] = np.array([0.0, 0.0, height]) - R @ centre
    return T
