"""Optical flow between two views, checked forward and backward, and the rigid motion that explains it."""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Mask
from molmo_ros.track.view import TrackOptions, View


def flow(before: View, view: View, pixels: Array, options: TrackOptions) -> tuple[Array, Mask]:
    """Pyramidal Lucas-Kanade, forward and backward: pixels (N,2) in the view, and which are consistent."""
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


def pose(points: Array, pixels: Array, K: Array, T: Array) -> Array:
    """The motion (4,4) near T that brings points (N,3) to pixels (N,2); T if too few agree on one."""
    turn: np.ndarray = cv2.Rodrigues(T[:3, :3])[0]
    shift: np.ndarray = T[:3, 3:].copy()
    fits = np.ones(len(points), np.bool_)
    for _ in range(3):
        turn, shift = cv2.solvePnPRefineLM(points[fits], pixels[fits], K, None, turn, shift)
        there = cv2.projectPoints(points, turn, shift, K, None)[0].reshape(-1, 2)
        off = np.linalg.norm(there - pixels, axis=1)
        fits = off <= max(0.3, 2.5 * float(np.median(off)))
        if np.count_nonzero(fits) < 12:
            return T
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = cv2.Rodrigues(turn)[0], shift.ravel()
    return found
