"""How pixels and scenes move between two views: optical flow there and back, and rigid motion from it."""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Mask
from molmo_ros.track_view import TrackOptions, View, depth_at, lift_pixels
from molmo_ros.transforms import transform_points


def flow(before: View, view: View, pixels: Array, options: TrackOptions) -> tuple[Array, Mask]:
    """Pyramidal Lucas-Kanade there and back: pixels (N,2) in the view, and which came back."""
    window = (options.window_px, options.window_px)
    old = pixels.astype(np.float32).reshape(-1, 1, 2)
    none = np.empty_like(old)
    new, there, _ = cv2.calcOpticalFlowPyrLK(
        before.gray, view.gray, old, none, winSize=window, maxLevel=options.levels
    )
    back, again, _ = cv2.calcOpticalFlowPyrLK(
        view.gray, before.gray, new, none.copy(), winSize=window, maxLevel=options.levels
    )
    found = new.reshape(-1, 2).astype(np.float64)
    height, width = view.gray.shape
    inside = (found >= 0).all(1) & (found[:, 0] <= width - 1) & (found[:, 1] <= height - 1)
    near = np.linalg.norm((back - old).reshape(-1, 2), axis=1) < options.back_px
    return found, np.asarray(inside & near & (there.ravel() == 1) & (again.ravel() == 1))


def rigid(then: Array, now: Array, T: Array, turn: bool) -> tuple[Array, Mask]:
    """Rigid motion (4,4) from then (N,3) to now (N,3), without outliers; which of the points fit.

    Source: Kabsch 1976. With few points, or without depth, only the shift is estimated.
    """
    fits = np.ones(len(then), np.bool_)
    for _ in range(3):
        if turn and np.count_nonzero(fits) >= 12:
            T = _kabsch(then[fits], now[fits])
        else:
            T = T.copy()
            T[:3, 3] += np.median(now[fits] - transform_points(T, then[fits]), axis=0)
        error = np.linalg.norm(now - transform_points(T, then), axis=1)
        fits = error <= max(0.003, 2.5 * float(np.median(error)))
    return T, fits


def _kabsch(then: Array, now: Array) -> Array:
    a, b = then.mean(0), now.mean(0)
    U, _, Vt = np.linalg.svd((then - a).T @ (now - b))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(Vt.T @ U.T))])
    T = np.eye(4)
    T[:3, :3] = Vt.T @ flip @ U.T
    T[:3, 3] = b - T[:3, :3] @ a
    return T


def ego_motion(before: View, view: View, options: TrackOptions) -> Array:
    """How the scene moved in the optical frame between two views (4,4); identity if that is not seen."""
    corners = cv2.goodFeaturesToTrack(before.gray, 150, 0.005, 8)
    if corners is None or len(corners) < 20:
        return np.eye(4)
    old = corners.reshape(-1, 2).astype(np.float64)
    new, good = flow(before, view, old, options)
    z0, z1 = depth_at(before, old), depth_at(view, new)
    good &= np.isfinite(z0) & np.isfinite(z1)
    if np.count_nonzero(good) < 20:
        return np.eye(4)
    T, fits = rigid(
        lift_pixels(old[good], z0[good], before.K), lift_pixels(new[good], z1[good], view.K), np.eye(4), True
    )
    return T if np.count_nonzero(fits) >= 15 else np.eye(4)
