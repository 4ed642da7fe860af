"""The static surroundings, aligned with each view: the motion of the camera, without drift."""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Mask
from molmo_ros.track.align import align
from molmo_ros.track.motion import flow, pose
from molmo_ros.track.view import (
    Surface,
    TrackOptions,
    View,
    agrees,
    lift_pixels,
    project,
    sample,
    seen_share,
)
from molmo_ros.transforms import invert, transform_points

SAMPLES, FOLLOWED, FEWEST = (
    300,
    100,
    20,
)  # samples spread over the view; of these, found by flow first; the minimum of both
SEEN = 0.6  # share of the samples that must agree, else new ones are chosen
EDGE_M = 0.04  # depth that differs this much within 5 px: front and back move differently there


class Scene:
    """The surroundings since some view, for one chain of views in order."""

    def __init__(self, options: TrackOptions) -> None:
        self._options = options
        self._surface: Surface | None = None
        self._T = np.eye(4)

    def advance(self, before: View, view: View, away: Mask) -> Array:
        """Motion of the scene in the optical frame between two views (4,4); identity if it is not observed.

        away (h,w): mask of what may move by itself in the view before.
        """
        if self._surface is None:
            self._surface, self._T = _samples(before, away), np.eye(4)
        if self._surface is None:
            return np.eye(4)
        T = align(self._surface, self._found(self._surface, before, view), view, self._options, turns=True)
        if seen_share(self._surface, T, view, self._options) < SEEN:
            self._surface = None
        step, self._T = T @ invert(self._T), T
        return step

    def _found(self, surface: Surface, before: View, view: View) -> Array:
        """The motion (4,4) of a surface by the flow of some of its samples."""
        visible = np.flatnonzero(agrees(surface, self._T, before, self._options))
        some = visible[:: max(1, len(visible) // FOLLOWED)]
        points = surface.points[some]
        pixels, good = flow(before, view, project(transform_points(self._T, points), before.K), self._options)
        if np.count_nonzero(good) < FEWEST:
            return self._T
        return pose(points[good], pixels[good], view.K, self._T)


def _samples(view: View, away: Mask) -> Surface | None:
    """Samples with texture on smooth depth; None if there are too few."""
    known = np.isfinite(view.depth)
    depth = np.where(known, view.depth, np.float32(-1.0))
    square = np.ones((5, 5), np.uint8)
    flat = np.asarray(cv2.dilate(depth, square) - cv2.erode(depth, square)) < EDGE_M
    mask = np.where(known & flat & ~away, 255, 0).astype(np.uint8)
    corners = cv2.goodFeaturesToTrack(view.gray, SAMPLES, 0.002, 4, mask=mask)
    if corners is None or len(corners) < FEWEST:
        return None
    pixels = corners.reshape(-1, 2).astype(np.float64)
    z, colors, _ = sample(view, pixels)
    return Surface(lift_pixels(pixels, z, view.K), colors, True)
