"""How pixels and the scene move between two views: optical flow there and back, and the camera's motion."""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Mask
from molmo_ros.track_view import TrackOptions, View, depth_at, lift_pixels

LEAST_SCENE = 20  # corners that tell how the camera moves


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


def ego_motion(before: View, view: View, away: Mask, options: TrackOptions) -> Array:
    """How the scene moved in the optical frame between two views (4,4); identity if that is not seen.

    away (h,w): where in the view before there is something that moves by itself, and tells nothing.
    Corners are lifted in the view before and found again in the other: their pixels tell a pose far better
    than two noisy depths would (perspective-n-point).
    """
    elsewhere = np.where(away, 0, 255).astype(np.uint8)
    corners = cv2.goodFeaturesToTrack(before.gray, 150, 0.005, 8, mask=elsewhere)
    if corners is None or len(corners) < LEAST_SCENE:
        return np.eye(4)
    old = corners.reshape(-1, 2).astype(np.float64)
    new, good = flow(before, view, old, options)
    z = depth_at(before, old)
    good &= np.isfinite(z)
    if np.count_nonzero(good) < LEAST_SCENE:
        return np.eye(4)
    return _pose(lift_pixels(old[good], z[good], before.K), new[good], view.K)


def _pose(points: Array, pixels: Array, K: Array) -> Array:
    """The motion (4,4) that brings points (N,3) to pixels (N,2); identity if too few agree on one."""
    turn: np.ndarray = np.zeros((3, 1))
    shift: np.ndarray = np.zeros((3, 1))
    fits = np.ones(len(points), np.bool_)
    for _ in range(4):
        turn, shift = cv2.solvePnPRefineLM(points[fits], pixels[fits], K, None, turn, shift)
        there = cv2.projectPoints(points, turn, shift, K, None)[0].reshape(-1, 2)
        off = np.linalg.norm(there - pixels, axis=1)
        fits = off <= max(0.3, 2.5 * float(np.median(off)))
        if np.count_nonzero(fits) < 0.75 * LEAST_SCENE:
            return np.eye(4)
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = cv2.Rodrigues(turn)[0], shift.ravel()
    return T
