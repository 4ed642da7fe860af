"""Outlines of flat point sets: convex hull, and the rectangle around them."""

from __future__ import annotations

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Mask


def hull(points: Array) -> Array:
    """Return the corners (C,2) of the convex hull of points (N,2), counter-clockwise."""
    return np.asarray(
        points[cv2.convexHull(points.astype(np.float32), clockwise=False, returnPoints=False)[:, 0]]
    )


def in_hull(points: Array, of: Array, margin: float) -> Mask:
    """Mark the points (N,2) in the convex hull of others (M,2) m, or within margin m of it.

    None, if the others lie on a line.
    """
    corners = hull(of)
    edge = np.roll(corners, -1, axis=0) - corners
    length = np.hypot(edge[:, 0], edge[:, 1])
    corners, edge = corners[length > 1e-9], edge[length > 1e-9] / length[length > 1e-9, None]
    if len(corners) < 3:
        return np.zeros(len(points), dtype=np.bool_)
    low, high = corners.min(axis=0) - margin, corners.max(axis=0) + margin
    x, y = np.ascontiguousarray(points.T)
    inside = (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1])  # often few are
    outward = np.stack([edge[:, 1], -edge[:, 0]], axis=1)
    beyond = outward @ points[inside].T - np.einsum("cd,cd->c", corners, outward)[:, None]
    inside[inside] = beyond.max(axis=0) < margin
    return np.asarray(inside)


def rectangle_angle(points: Array) -> float:
    """Return the direction (rad) of one side of the rectangle of least area around points (N,2).

    Source: Freeman and Shapira 1975: one side of it is flush with the convex hull.
    """
    corners = hull(points)
    edge = np.roll(corners, -1, axis=0) - corners
    angle = np.arctan2(edge[:, 1], edge[:, 0])
    c, s = np.cos(angle), np.sin(angle)
    x = corners @ np.stack([c, s])
    y = corners @ np.stack([-s, c])
    return float(angle[np.argmin(np.ptp(x, axis=0) * np.ptp(y, axis=0))])


def outermost(points: Array, outward: Array, side: Array, spacing: float, lowest: bool) -> Array:
    """Return the outermost of points (N,3) in each strip across a direction, or the lowest near them."""
    along, across = points @ outward, points @ side
    cell = ((across - across.min()) / spacing).astype(np.intp)
    count = int(cell.max()) + 1
    if lowest:
        farthest = np.full(count, -np.inf)
        np.maximum.at(farthest, cell, along)
        near = along > farthest[cell] - 0.004
        points, cell, along = points[near], cell[near], -points[near, 2]
    last = np.full(count, -1, dtype=np.intp)
    order = np.argsort(along)
    last[cell[order]] = order
    return np.asarray(points[last[last >= 0]])


def level_normals(edge: Array, outward: Array, side: Array) -> Array:
    """Return level normals (N,3) of an edge (N,3) m that looks outward (3,), in order along side (3,)."""
    smooth = cv2.GaussianBlur((edge @ outward)[:, None], (1, 17), 2.0, borderType=cv2.BORDER_REFLECT)
    slope = np.gradient(smooth.ravel(), edge @ side)
    n = outward - slope[:, None] * side
    return np.asarray(n / np.sqrt(1 + slope**2)[:, None])
