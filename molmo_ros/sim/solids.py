"""Bodies as convex pieces, the only kind of body that contact physics handles well.

A bowl is cut into wall pieces all around, so that it is hollow; a bottle into slices, so that it has a neck.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from molmo_ros.datatypes import Array

SECTORS = 20  # of a hollow ring: its inner chords stand at most 1.3 % of the radius proud of the circle
THINNEST_M = 1e-5  # slice of a body
STRAIGHT_COS = np.cos(np.radians(12.0))  # a tube bends by no more than this within one piece


def lathe_solids(profile: Array, segments: int) -> tuple[Array, ...]:
    """Cut the body that a profile (P,2) of (radius, z) makes when revolved about z into convex pieces.

    The profile is closed, along the axis if it begins and ends there. It is cut at the height of each of its
    corners; slices that are full are joined again where the outside bulges.
    """
    levels = np.unique(np.round(profile[:, 1], 6))
    levels = levels[np.append(True, np.diff(levels) > THINNEST_M)]  # less is one corner, rounded
    pieces: list[Array] = []
    open_stack: list[Array] = []  # full slices so far, (radius, z), from below
    for low, high in pairwise(levels):
        spans = _spans(profile, low, high)
        full = [s for s in spans if s[0, 0] < 1e-6 and s[0, 1] < 1e-6]
        pieces += [piece for s in spans[len(full) :] for piece in _sectors(s, low, high)]
        if not full:
            continue
        ends = np.array([[full[0][1, 0], low], [full[0][1, 1], high]])
        joined = np.concatenate([open_stack[-1], ends]) if open_stack else ends
        if open_stack and np.allclose(open_stack[-1][-1], ends[0], atol=1e-5) and _bulges(joined):
            open_stack[-1] = joined
        else:
            open_stack.append(ends)
    angle = np.arange(segments) * 2 * np.pi / segments
    return (*(_revolved(outline, angle) for outline in open_stack), *pieces)


def tube_solids(rings: Array) -> tuple[Array, ...]:
    """Cut a swept tube with rings (P,S,3) into convex pieces, as long as it stays nearly straight."""
    middle = rings.mean(axis=1)
    direction = np.diff(middle, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    pieces, start = [], 0
    for end in range(1, len(rings)):
        last = end == len(rings) - 1
        if last or direction[start] @ direction[end] < STRAIGHT_COS:
            pieces.append(rings[start : end + 1].reshape(-1, 3))
            start = end
    return tuple(pieces)


def _spans(profile: Array, low: float, high: float) -> list[Array]:
    """Where the body is solid between two heights: radii [[inner, its upper end], [outer, its upper end]]."""
    closed = np.concatenate([profile, profile[:1]])
    crossings = []
    for a, b in pairwise(closed):
        if abs(a[1] - b[1]) < 1e-9 or min(a[1], b[1]) > low + 1e-6 or max(a[1], b[1]) < high - 1e-6:
            continue
        at = (np.array([low, high]) - a[1]) / (b[1] - a[1])
        crossings.append(a[0] + at * (b[0] - a[0]))
    crossings.sort(key=lambda radii: float(radii.sum()))
    if len(crossings) % 2:  # the axis itself is the inner side
        crossings.insert(0, np.zeros(2))
    return [np.stack(pair) for pair in zip(crossings[::2], crossings[1::2], strict=True)]


def _sectors(span: Array, low: float, high: float) -> list[Array]:
    """Wedges of a ring, each with three points on the outside so that it stays round there."""
    pieces = []
    for k in range(SECTORS):
        angle = 2 * np.pi * (k + np.array([0, 0.5, 1])) / SECTORS
        around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        corners = [
            np.c_[radius * around, np.full(3, z)]
            for radii in span
            for radius, z in zip(radii, (low, high), strict=True)
        ]
        pieces.append(np.concatenate(corners))
    return pieces


def _bulges(outline: Array) -> bool:
    """Tell whether radius over height is concave, so that the stack (N,2) of slices is convex."""
    slope = np.diff(outline[:, 0]) / np.maximum(np.diff(outline[:, 1]), 1e-9)
    return bool(np.all(np.diff(slope[np.diff(outline[:, 1]) > 1e-9]) < 1e-6))


def _revolved(outline: Array, angle: Array) -> Array:
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    rings = [np.c_[radius * around, np.full(len(around), z)] for radius, z in outline]
    return np.unique(np.round(np.concatenate(rings), 7), axis=0)
