"""Places of a hand in space, and the pixels that show them."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array, Grasp, Index, Mask, RgbdFrame
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.transforms import pose_matrix, transform_points


def finger_places(grasp: Grasp, gripper: Gripper) -> tuple[Array, Array]:
    """Return places (N,3) m in the lower half of each finger, in the camera's frame."""
    width, thick = gripper.finger_width, gripper.finger_thickness
    across = np.linspace(-width / 2, width / 2, 3)
    along = -np.linspace(0.0, gripper.finger_length / 2, 4)
    beside = grasp.opening / 2 + np.linspace(0.0, thick, 3)
    return places_of(grasp, (across, -beside, along)), places_of(grasp, (across, beside, along))


def places_of(grasp: Grasp, axes: tuple[Array, Array, Array]) -> Array:
    """Return the places (N,3) m in the camera's frame of a lattice in the grasp's frame."""
    local = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return transform_points(pose_matrix(grasp.pose), local)


def pixels_of(frame: RgbdFrame, camera: Array) -> tuple[Index, Index, Mask]:
    """Return column and row (N,) of the pixel that shows each place (N,3) m, and whether it is in the image.

    Of one that is not, the nearest pixel at the border.
    """
    z = np.maximum(camera[:, 2], 1e-3)
    u = np.round(frame.K[0, 0] * camera[:, 0] / z + frame.K[0, 2]).astype(np.intp)
    v = np.round(frame.K[1, 1] * camera[:, 1] / z + frame.K[1, 2]).astype(np.intp)
    height, width = frame.depth.shape
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return np.clip(u, 0, width - 1), np.clip(v, 0, height - 1), inside
