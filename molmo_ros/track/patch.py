"""The surface patch around a tracked point: begin it, move it, compare it with a view, search for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np

from molmo_ros.datatypes import Array, GraspTarget, ImagePoint, Mask
from molmo_ros.track.motion import flow
from molmo_ros.track.view import (
    Surface,
    TrackOptions,
    View,
    agrees,
    depth_at,
    lift_pixels,
    project,
    sample,
    seen_share,
)
from molmo_ros.transforms import transform_points


@dataclass(frozen=True)
class Seed:
    """A point that the model named, in full-size pixels; mask (H,W), its object, and its target, if known."""

    point: ImagePoint
    mask: Mask | None = None
    target: GraspTarget | None = None


@dataclass
class Patch:
    """The state of one instance: T brings its surface to the newest view, pixels (N,2) are corners there."""

    instance: int
    seed: Seed
    point: Array
    surface: Surface
    T: Array = field(default_factory=lambda: np.eye(4))
    pixels: Array = field(default_factory=lambda: np.zeros((0, 2)))
    seen: float = 1.0
    lost_ns: int | None = None
    missed: int = 0
    path: dict[int, Array] = field(default_factory=dict)  # stamp -> position then


def begin(seed: Seed, view: View, options: TrackOptions) -> Patch | None:
    """A track of the patch around a seed; None if the seed lies outside the image."""
    height, width = view.gray.shape
    x, y = ((np.array([seed.point.x, seed.point.y]) + 0.5) * view.scale) - 0.5
    if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        return None
    near = view.depth[max(0, int(y) - 2) : int(y) + 4, max(0, int(x) - 2) : int(x) + 4]
    has_depth = bool(np.isfinite(near).any())
    z = float(np.nanmedian(near)) if has_depth else 1.0
    v, u = np.nonzero(_patch(seed, view, x, y, z, has_depth, options))
    pick = np.linspace(0, len(v) - 1, min(options.samples, len(v))).astype(int)
    pixels = np.stack([u[pick], v[pick]], 1).astype(np.float64)
    depth = view.depth[v[pick], u[pick]].astype(np.float64)
    points = lift_pixels(pixels, np.where(np.isfinite(depth) & has_depth, depth, z), view.K)
    point = lift_pixels(np.array([[x, y]]), np.array([z]), view.K)[0]
    surface = Surface(points, view.rgb[v[pick], u[pick]].astype(np.float64), has_depth)
    track = Patch(0, seed, point, surface)
    track.path[view.stamp_ns] = point
    refresh(track, view, options)
    return track


def _patch(
    seed: Seed, view: View, x: float, y: float, z: float, has_depth: bool, options: TrackOptions
) -> Mask:
    """(h,w) the pixels of the object: its mask without the rim, else what is near the point."""
    height, width = view.gray.shape
    if seed.mask is not None:
        small = cv2.resize(seed.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        inner = cv2.erode(small, np.ones((3, 3), np.uint8))
        if np.count_nonzero(inner) >= 20:
            return np.asarray(inner > 0)
    v, u = np.mgrid[:height, :width]
    disc = np.hypot(u - x, v - y) <= max(5.0, options.radius_m * view.K[0, 0] / z)
    if has_depth:
        disc &= ~(np.abs(view.depth - z) > 2 * options.radius_m)
    return np.asarray(disc)


def move(track: Patch, before: View, view: View, ego: Array, options: TrackOptions) -> None:
    """Shift T by the flow of its corners, less the motion of the scene (ego), which T already contains."""
    if len(track.pixels) < options.least_corners:
        return
    old = track.pixels
    new, good = flow(before, view, old, options)
    shift = new - old
    if np.count_nonzero(good) >= options.least_corners:
        middle = np.median(shift[good], axis=0)
        off = np.linalg.norm(shift - middle, axis=1)
        good &= off < max(2.0, 0.5 * float(np.linalg.norm(middle)))
    expected = transform_points(ego, lift_pixels(old, _depth(track, before, old), before.K))
    z = _depth(track, view, new)
    jump = z - expected[:, 2]
    good &= np.isfinite(jump)
    if np.count_nonzero(good) >= options.least_corners:
        middle_z = float(np.median(jump[good]))
        # An occluder makes the depth jump nearer.
        good &= (np.abs(jump - middle_z) < 2 * options.depth_m) & (abs(middle_z) < options.jump_m)
    if np.count_nonzero(good) < options.least_corners:
        track.pixels = track.pixels[:0]
        return
    now = lift_pixels(new[good], z[good], view.K)
    track.T = track.T.copy()
    track.T[:3, 3] += np.median(now - expected[good], axis=0)
    track.pixels = new[good]


def _depth(track: Patch, view: View, pixels: Array) -> Array:
    """Depth (N,) of a track's surface at pixels; where nothing is known, that of its point."""
    if track.surface.has_depth:
        return depth_at(view, pixels)
    return np.full(len(pixels), transform_points(track.T, track.point[None])[0, 2])


def covered(tracks: Iterable[Patch], view: View) -> Mask:
    """(h,w) mask of the visible tracks in the view: boxes with a margin, since objects may rotate."""
    mask = np.zeros(view.gray.shape, np.uint8)
    for track in tracks:
        if track.lost_ns is None:
            pixels = project(transform_points(track.T, track.surface.points), view.K)
            (x0, y0), (x1, y1) = pixels.min(0).astype(int) - 5, pixels.max(0).astype(int) + 6
            mask[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = 1
    return np.asarray(mask > 0)


def search(track: Patch, T: Array, view: View, reach: float, options: TrackOptions) -> tuple[Array, float]:
    """The shift of T within reach (px) where most of the surface agrees, near ones first."""
    thin = max(1, len(track.surface.points) // 80)
    points = transform_points(T, track.surface.points)[::thin]
    colors = track.surface.colors[::thin]
    steps = np.arange(-reach, reach + 0.1, 2.0 if reach > 6 else 1.0)
    shifts = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    shifts = shifts[np.linalg.norm(shifts, axis=1) <= reach]
    pixels = project(points, view.K)[None] + shifts[:, None]  # (S, M, 2)
    depth, seen_colors, inside = sample(view, pixels)
    alike = inside & (np.linalg.norm(seen_colors - colors, axis=-1) < options.color)
    dz = np.where(alike & np.isfinite(depth), depth - points[:, 2], np.nan)
    known = np.isfinite(dz).sum(1) >= 3
    shift_z = np.zeros(len(shifts))
    if track.surface.has_depth and known.any():
        shift_z[known] = np.nanmedian(dz[known], axis=1)
        shift_z[np.abs(shift_z) > options.jump_m] = 0.0
        alike &= ~(np.abs(dz - shift_z[:, None]) > options.depth_m)
    score = alike.mean(1) - 0.1 * np.linalg.norm(shifts, axis=1) / options.search_px
    best = int(np.argmax(score))
    middle = points.mean(0)
    pixel = project(middle[None], view.K) + shifts[best]
    moved = T.copy()
    moved[:3, 3] += lift_pixels(pixel, np.array([middle[2] + shift_z[best]]), view.K)[0] - middle
    return moved, seen_share(track.surface, moved, view, options)


def refresh(track: Patch, view: View, options: TrackOptions) -> None:
    """Find new corners on the visible surface when too few are left."""
    if len(track.pixels) >= options.corners // 3:
        return
    visible = agrees(track.surface, track.T, view, options)
    pixels = np.rint(project(transform_points(track.T, track.surface.points)[visible], view.K)).astype(int)
    mask = np.zeros(view.gray.shape, np.uint8)
    mask[pixels[:, 1], pixels[:, 0]] = 255
    mask = np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8)), np.uint8)
    found = cv2.goodFeaturesToTrack(view.gray, options.corners, 0.01, 3, mask=mask)
    if found is not None:
        track.pixels = found.reshape(-1, 2).astype(np.float64)
