"""Rigid transforms as 4x4 matrices, quaternions as xyzw.

``T_a_b`` takes coordinates in b to coordinates in a: ``p_a = T_a_b @ p_b``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from molmo_ros.datatypes import Array, Grasp, GraspTarget, OrientedBox, Pose
from molmo_ros.errors import TransformError

# Frames whose z points up, by REP-105 and by custom.
UPRIGHT_FRAMES = ("base_link", "base_footprint", "odom", "map", "world", "earth")


def unit(vector: Array) -> Array:
    """Return vector(s) (...,3) at length 1. Raises: TransformError where the length is zero or not finite."""
    v = np.asarray(vector, dtype=np.float64)
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    if not np.all(np.isfinite(norm)) or np.any(norm < 1e-12):
        raise TransformError(f"{v.tolist()} has no direction; give a vector of finite, non-zero length.")
    return np.asarray(v / norm)


def matrix_from_quaternion(quaternion: Array) -> Array:
    """Turn xyzw (4,), of any non-zero length, into a rotation matrix (3,3)."""
    q = np.asarray(quaternion, dtype=np.float64)
    if q.shape != (4,) or not np.all(np.isfinite(q)) or float(q @ q) < 1e-12:
        raise TransformError(f"{q.tolist()} is no rotation; give a quaternion x, y, z, w of length 1.")
    x, y, z, w = q / np.sqrt(q @ q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_matrix(rotation: Array) -> Array:
    """Turn a rotation matrix (3,3) into xyzw (4,) with w >= 0.

    Source: Bar-Itzhack 2000, the eigenvector of largest eigenvalue; stable at every angle.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = np.asarray(rotation, dtype=np.float64)
    k = np.array(
        [
            [xx - yy - zz, 0.0, 0.0, 0.0],
            [yx + xy, yy - xx - zz, 0.0, 0.0],
            [zx + xz, zy + yz, zz - xx - yy, 0.0],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    q = np.linalg.eigh(k, UPLO="L")[1][:, -1]
    return np.asarray(-q if q[3] < 0 else q)


def make_transform(rotation: Array, translation: Array) -> Array:
    """Join a rotation (3,3) and a translation (3,) m into (4,4)."""
    T = np.eye(4)
    T[:3, :3] = rotation
    T[:3, 3] = translation
    return T


def check_transform(T: Array) -> Array:
    """Return T as (4,4) float64. Raises: TransformError unless it is finite and rigid to 1e-3."""
    T = np.asarray(T, dtype=np.float64)
    if T.shape != (4, 4) or not np.all(np.isfinite(T)):
        raise TransformError(f"A transform must be a finite 4x4 matrix, not {T.shape}; check its source.")
    R = T[:3, :3]
    skew = float(np.abs(R @ R.T - np.eye(3)).max())
    if skew > 1e-3 or np.linalg.det(R) < 0 or not np.allclose(T[3], (0.0, 0.0, 0.0, 1.0), atol=1e-9):
        raise TransformError(
            f"The transform is not rigid (R R^T is off by {skew:.2g}, det R = {np.linalg.det(R):.3g}); "
            "give a proper rotation, metres, and a last row of 0 0 0 1."
        )
    return T


def invert(T: Array) -> Array:
    """Invert a rigid transform (4,4) without a general matrix inverse."""
    R = T[:3, :3].T
    return make_transform(R, -R @ T[:3, 3])


def transform_points(T: Array, points: Array) -> Array:
    """Move points (...,3) m by T (4,4)."""
    return np.asarray(points @ T[:3, :3].T + T[:3, 3])


def rotate_vectors(T: Array, vectors: Array) -> Array:
    """Turn directions (...,3) by the rotation of T (4,4)."""
    return np.asarray(vectors @ T[:3, :3].T)


def rotate_covariance(T: Array, covariance: Array) -> Array:
    """Turn a covariance by the rotation R of T: R C R^T; (3,3), or (6,6) in REP-103 order, blockwise."""
    R: Array = T[:3, :3]
    if covariance.shape == (6, 6):
        R = np.kron(np.eye(2), R).astype(np.float64)
    turned = R @ covariance @ R.T
    return np.asarray(0.5 * (turned + turned.T))


def pose_matrix(pose: Pose) -> Array:
    """Return the pose as T_frame_pose (4,4)."""
    return make_transform(matrix_from_quaternion(pose.orientation), pose.position)


def pose_from_matrix(T: Array) -> Pose:
    """Return T (4,4) as a Pose."""
    return Pose(position=T[:3, 3].copy(), orientation=quaternion_from_matrix(T[:3, :3]))


def transform_pose(T: Array, pose: Pose) -> Pose:
    """Express a pose given in frame b in frame a, with T = T_a_b."""
    return pose_from_matrix(T @ pose_matrix(pose))


def transform_box(T: Array, box: OrientedBox) -> OrientedBox:
    """Express a box given in frame b in frame a, with T = T_a_b."""
    return replace(box, pose=transform_pose(T, box.pose))


def transform_grasp(T: Array, grasp: Grasp) -> Grasp:
    """Express a grasp given in frame b in frame a, with T = T_a_b."""
    return replace(grasp, pose=transform_pose(T, grasp.pose), pregrasp=transform_pose(T, grasp.pregrasp))


def transform_target(target: GraspTarget, T_target_camera: Array, target_frame: str) -> GraspTarget:
    """Express a target, given in the optical frame, in target_frame; its segment stays in the optical
    frame."""
    if target.position is None or target.covariance is None:
        return replace(target, frame_id=target_frame)
    return replace(
        target,
        frame_id=target_frame,
        position=transform_points(T_target_camera, target.position),
        covariance=rotate_covariance(T_target_camera, target.covariance),
        box=None if target.box is None else transform_box(T_target_camera, target.box),
        grasp=None if target.grasp is None else transform_grasp(T_target_camera, target.grasp),
    )


def frame_with_z(z: Array, x_hint: Array) -> Array:
    """Build a rotation (3,3) whose z axis is along z and whose x axis is as near to x_hint as it can be."""
    z = unit(z)
    x = np.asarray(x_hint, dtype=np.float64) - (x_hint @ z) * z
    if np.linalg.norm(x) < 1e-6:
        x = np.eye(3)[int(np.argmin(np.abs(z)))]
        x = x - (x @ z) * z
    x = unit(x)
    return np.stack([x, np.cross(z, x), z], axis=1)
