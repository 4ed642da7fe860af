"""Follow what the model found from frame to frame, between its answers. Knows no ROS and no model.

An object is the patch of surface that was seen around its point: a few hundred samples with colour, and
corners that optical flow follows. Each new frame moves it rigidly; the samples say whether it is still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Depth, GraspTarget, Image, ImagePoint, Mask, RgbdFrame
from molmo_ros.transforms import invert, transform_points

NS = 1e9


@dataclass(frozen=True)
class TrackOptions:
    """Pixels are those of the small image on which the work is done, ``width`` wide."""

    width: int = 320
    window_px: int = 31  # large: smooth objects show little else than their outline
    levels: int = 3
    corners: int = 60
    least_corners: int = 6
    samples: int = 160
    back_px: float = 0.6  # a corner must come back this close when it is followed backwards
    still_px: float = 0.5  # corners that slip less than this against the scene mean that it stands still
    turn: bool = False  # also follow how a thing turns by itself (needs texture)
    depth_m: float = 0.015  # a sample agrees with the image up to here ...
    color: float = 45.0  # ... and up to this distance in RGB
    least_seen: float = 0.3  # share of samples that must agree, else it is lost
    found_again: float = 0.55  # share that must agree where something lost is found again
    search_px: float = 44.0
    near_m: float = 0.08  # an answer this close to where a track was is the same thing
    near_lost_m: float = 0.30
    radius_m: float = 0.03  # of the patch, if nothing has segmented the object


DEFAULT_TRACK = TrackOptions()


@dataclass(frozen=True)
class View:
    """What is kept of a frame: gray (h,w), rgb (h,w,3), depth (h,w) m with NaN, K of it, and its scale."""

    gray: Image
    rgb: Image
    depth: Depth
    K: Array
    scale: float
    stamp_ns: int


@dataclass(frozen=True)
class Seed:
    """A point that the model named, in full-size pixels; mask (H,W), its object, and its target, if known."""

    point: ImagePoint
    mask: Mask | None = None
    target: GraspTarget | None = None


@dataclass(frozen=True)
class Tracked:
    """One instance in the newest view. x, y in full-size pixels; position (3,) m in the optical frame.

    T_now_then (4,4) moves what was known of the object when the model saw it (seed) to the newest view;
    position is None without depth; seen is the share of its surface that agrees with the image.
    """

    instance: int
    seed: Seed
    x: float
    y: float
    position: Array | None
    T_now_then: Array
    seen: float
    lost: bool
    lost_s: float


def make_view(frame: RgbdFrame, options: TrackOptions = DEFAULT_TRACK) -> View:
    """A small copy of a frame, on which everything here works."""
    height, width = frame.depth.shape
    scale = min(1.0, options.width / width)
    size = (round(width * scale), round(height * scale))
    rgb = cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)
    depth = cv2.resize(frame.depth, size, interpolation=cv2.INTER_NEAREST)
    K = frame.K.astype(np.float64).copy()
    K[:2, :] *= scale
    K[:2, 2] += (scale - 1) / 2  # (0, 0) is the centre of a pixel
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return View(
        np.asarray(gray, np.uint8),
        np.asarray(rgb, np.uint8),
        np.asarray(depth, np.float32),
        K,
        scale,
        frame.stamp_ns,
    )


@dataclass
class _Track:
    """The state of one instance. surface (M,3) and corners (N,3) are in the optical frame of the seed."""

    instance: int
    seed: Seed
    point: Array
    surface: Array
    colors: Array
    has_depth: bool
    T: Array = field(default_factory=lambda: np.eye(4))
    corners: Array = field(default_factory=lambda: np.zeros((0, 3)))
    pixels: Array = field(default_factory=lambda: np.zeros((0, 2)))
    seen: float = 1.0
    lost_ns: int | None = None
    missed: int = 0
    path: dict[int, Array] = field(default_factory=dict)  # stamp -> position then


class Tracker:
    """Follows several instances; give it every view in order, from one thread."""

    def __init__(self, options: TrackOptions = DEFAULT_TRACK) -> None:
        self.options = options
        self._tracks: list[_Track] = []
        self._view: View | None = None
        self._next = 1

    @property
    def lost(self) -> bool:
        """True if there is something to follow and none of it is seen."""
        return bool(self._tracks) and all(t.lost_ns is not None for t in self._tracks)

    def update(self, view: View) -> tuple[Tracked, ...]:
        """Follow everything into the next view."""
        before, self._view = self._view, view
        if before is not None and self._tracks:
            ego = _ego_motion(before, view, self.options)
            for track in self._tracks:
                self._follow(track, before, view, ego)
        return self.targets()

    def correct(self, views: Sequence[View], seeds: Sequence[Seed]) -> tuple[Tracked, ...]:
        """Take a new answer of the model, which may be about an old frame.

        Args: views, from the one that the answer is about to the newest, in order. The answer is carried
        through them; a seed near to where a track was on views[0] keeps that track's identity.
        """
        fresh = [t for t in (_begin(seed, views[0], self.options) for seed in seeds) if t is not None]
        self._identify(fresh, views[0].stamp_ns)
        for before, view in pairwise(views):
            ego = _ego_motion(before, view, self.options)
            for track in fresh:
                self._follow(track, before, view, ego)
        kept = {t.instance for t in fresh}
        for track in self._tracks:
            track.missed += 1
        # What the model does not see, but the images still show, is believed once.
        old = [t for t in self._tracks if t.instance not in kept and (t.missed < 2 or t.lost_ns is not None)]
        self._tracks = sorted(fresh + old, key=lambda t: t.instance)
        self._view = views[-1]
        return self.targets()

    def targets(self) -> tuple[Tracked, ...]:
        """Everything in the newest view, also what is lost (where it would be if it had not moved)."""
        return tuple(self._tracked(t) for t in self._tracks)

    def _tracked(self, track: _Track) -> Tracked:
        assert self._view is not None
        position = transform_points(track.T, track.point[None])[0]
        pixel = _full(_project(position[None], self._view.K)[0], self._view.scale)
        lost_s = 0.0 if track.lost_ns is None else (self._view.stamp_ns - track.lost_ns) / NS
        return Tracked(
            instance=track.instance,
            seed=track.seed,
            x=float(pixel[0]),
            y=float(pixel[1]),
            position=position if track.has_depth else None,
            T_now_then=track.T.copy(),
            seen=track.seen,
            lost=track.lost_ns is not None,
            lost_s=lost_s,
        )

    def _identify(self, fresh: list[_Track], stamp_ns: int) -> None:
        """Give each fresh track the identity of the nearest old one, else a new one."""
        pairs = sorted(
            (distance, i, old.instance)
            for i, new in enumerate(fresh)
            for old in self._tracks
            if (distance := self._distance(new, old, stamp_ns)) < 1.0
        )
        taken: dict[int, int] = {}
        for _, i, instance in pairs:
            if i not in taken and instance not in taken.values():
                taken[i] = instance
        for i, track in enumerate(fresh):
            track.instance = taken.get(i, 0) or self._new_instance()

    def _distance(self, new: _Track, old: _Track, stamp_ns: int) -> float:
        """Distance of two tracks at a stamp, 1 where they are too far apart to be the same thing."""
        stamps = [s for s in old.path if s <= stamp_ns]
        then = old.path[max(stamps)] if stamps else transform_points(old.T, old.point[None])[0]
        reach = self.options.near_m if old.lost_ns is None else self.options.near_lost_m
        tint = float(np.linalg.norm(new.colors.mean(0) - old.colors.mean(0)))
        return float(np.linalg.norm(new.point - then)) / reach + (tint / self.options.color) ** 2 / 4

    def _new_instance(self) -> int:
        self._next += 1
        return self._next - 1

    def _follow(self, track: _Track, before: View, view: View, ego: Array) -> None:
        options = self.options
        track.T = ego @ track.T
        if track.lost_ns is None:
            held = track.T
            _move(track, before, view, options)
            track.seen = _seen(track, track.T, view, options)
            if track.seen < options.found_again:  # flow has drifted, or it is half hidden: look around
                T, seen = _search(track, track.T, view, 4.0, options)
                if seen > track.seen + 0.1:
                    track.T, track.seen = T, seen
                    track.corners = track.corners[:0]
            if track.seen < options.least_seen:
                track.T, track.lost_ns = held, view.stamp_ns
        if track.lost_ns is not None:
            self._look_for(track, view)
        if track.lost_ns is None:
            _refresh(track, view, options)
        track.path[view.stamp_ns] = transform_points(track.T, track.point[None])[0]
        if len(track.path) > 200:
            del track.path[min(track.path)]

    def _look_for(self, track: _Track, view: View) -> None:
        """Look for a lost track around where it would be if it stood still, ever farther."""
        assert track.lost_ns is not None
        lost_s = (view.stamp_ns - track.lost_ns) / NS
        reach = min(self.options.search_px, 6.0 + 40.0 * lost_s)
        T, seen = _search(track, track.T, view, reach, self.options)
        if seen >= self.options.found_again and not self._occupied(track, T):
            track.T, track.seen, track.lost_ns = T, seen, None
            track.corners = track.corners[:0]

    def _occupied(self, track: _Track, T: Array) -> bool:
        """Whether another instance that is seen lies where this one would."""
        position = transform_points(T, track.point[None])[0]
        others = [t for t in self._tracks if t is not track and t.lost_ns is None]
        return any(np.linalg.norm(transform_points(t.T, t.point[None])[0] - position) < 0.03 for t in others)


def _begin(seed: Seed, view: View, options: TrackOptions) -> _Track | None:
    """A track of the patch around a seed; None if the seed lies outside of the image."""
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
    surface = _lift(pixels, np.where(np.isfinite(depth) & has_depth, depth, z), view.K)
    point = _lift(np.array([[x, y]]), np.array([z]), view.K)[0]
    track = _Track(0, seed, point, surface, view.rgb[v[pick], u[pick]].astype(np.float64), has_depth)
    track.path[view.stamp_ns] = point
    _refresh(track, view, options)
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


def _move(track: _Track, before: View, view: View, options: TrackOptions) -> None:
    """Follow the corners and fit the rigid motion that explains them.

    T already holds the motion of the camera; a thing that stands still is left there, which does not drift.
    """
    if len(track.corners) < options.least_corners:
        return
    old = track.pixels
    new, good = _flow(before, view, old, options)
    shift = new - old
    if np.count_nonzero(good) >= options.least_corners:
        middle = np.median(shift[good], axis=0)
        off = np.linalg.norm(shift - middle, axis=1)
        good &= off < max(2.0, 0.5 * float(np.linalg.norm(middle)))
    expected = transform_points(track.T, track.corners)[:, 2]
    z = _depth_at(view, new) if track.has_depth else np.full(len(new), np.nan)
    known = np.isfinite(z)
    jump = np.where(known, z - expected, 0.0)
    if np.count_nonzero(good & known) >= options.least_corners:
        jump -= np.median(jump[good & known]) * known
    good &= np.abs(jump) < 2 * options.depth_m
    if np.count_nonzero(good) < options.least_corners:
        track.corners, track.pixels = track.corners[:0], track.pixels[:0]
        return
    track.corners, track.pixels = track.corners[good], new[good]
    slip = new[good] - _project(transform_points(track.T, track.corners), view.K)
    if float(np.linalg.norm(np.median(slip, axis=0))) < options.still_px:
        return
    now = _lift(new, np.where(known, z, expected), view.K)[good]
    track.T, fits = _rigid(track.corners, now, track.T, track.has_depth and options.turn)
    track.corners, track.pixels = track.corners[fits], track.pixels[fits]


def _flow(before: View, view: View, pixels: Array, options: TrackOptions) -> tuple[Array, Mask]:
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


def _rigid(then: Array, now: Array, T: Array, turn: bool) -> tuple[Array, Mask]:
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


def _ego_motion(before: View, view: View, options: TrackOptions) -> Array:
    """How the scene moved in the optical frame between two views (4,4); identity if that is not seen."""
    corners = cv2.goodFeaturesToTrack(before.gray, 150, 0.005, 8)
    if corners is None or len(corners) < 20:
        return np.eye(4)
    old = corners.reshape(-1, 2).astype(np.float64)
    new, good = _flow(before, view, old, options)
    z0, z1 = _depth_at(before, old), _depth_at(view, new)
    good &= np.isfinite(z0) & np.isfinite(z1)
    if np.count_nonzero(good) < 20:
        return np.eye(4)
    T, fits = _rigid(
        _lift(old[good], z0[good], before.K), _lift(new[good], z1[good], view.K), np.eye(4), True
    )
    return T if np.count_nonzero(fits) >= 15 else np.eye(4)


def _seen(track: _Track, T: Array, view: View, options: TrackOptions) -> float:
    """Share of the surface that agrees with the view in colour and depth."""
    return float(np.mean(_agree(track, T, view, options)))


def _agree(track: _Track, T: Array, view: View, options: TrackOptions) -> Mask:
    points = transform_points(T, track.surface)
    pixels = _project(points, view.K)
    depth, colors, inside = _sample(view, pixels)
    near = ~(np.abs(depth - points[:, 2]) > options.depth_m) | (not track.has_depth)
    return np.asarray(inside & near & (np.linalg.norm(colors - track.colors, axis=1) < options.color))


def _search(track: _Track, T: Array, view: View, reach: float, options: TrackOptions) -> tuple[Array, float]:
    """The shift of T within reach (px) where most of the surface agrees, near ones first."""
    points = transform_points(T, track.surface)[:: max(1, len(track.surface) // 80)]
    colors = track.colors[:: max(1, len(track.surface) // 80)]
    steps = np.arange(-reach, reach + 0.1, 2.0 if reach > 6 else 1.0)
    shifts = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    shifts = shifts[np.linalg.norm(shifts, axis=1) <= reach]
    pixels = _project(points, view.K)[None] + shifts[:, None]  # (S, M, 2)
    depth, seen_colors, inside = _sample(view, pixels)
    alike = inside & (np.linalg.norm(seen_colors - colors, axis=-1) < options.color)
    dz = np.where(alike & np.isfinite(depth), depth - points[:, 2], np.nan)
    known = np.isfinite(dz).sum(1) >= 3
    shift_z = np.zeros(len(shifts))
    if track.has_depth and known.any():
        shift_z[known] = np.nanmedian(dz[known], axis=1)
        alike &= ~(np.abs(dz - shift_z[:, None]) > options.depth_m)
        alike &= (np.abs(shift_z) < 0.12)[:, None]
    score = alike.mean(1) - 0.1 * np.linalg.norm(shifts, axis=1) / options.search_px
    best = int(np.argmax(score))
    middle = points.mean(0)
    pixel = _project(middle[None], view.K) + shifts[best]
    moved = T.copy()
    moved[:3, 3] += _lift(pixel, np.array([middle[2] + shift_z[best]]), view.K)[0] - middle
    return moved, _seen(track, moved, view, options)


def _refresh(track: _Track, view: View, options: TrackOptions) -> None:
    """Find new corners on the visible surface when too few are left."""
    if len(track.corners) >= options.corners // 3:
        return
    visible = _agree(track, track.T, view, options)
    pixels = np.rint(_project(transform_points(track.T, track.surface)[visible], view.K)).astype(int)
    mask = np.zeros(view.gray.shape, np.uint8)
    mask[pixels[:, 1], pixels[:, 0]] = 255
    mask = np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8)), np.uint8)
    found = cv2.goodFeaturesToTrack(view.gray, options.corners, 0.01, 3, mask=mask)
    if found is None:
        return
    corners = found.reshape(-1, 2).astype(np.float64)
    z = _depth_at(view, corners) if track.has_depth else np.full(len(corners), np.nan)
    if not track.has_depth:
        z = np.full(len(corners), transform_points(track.T, track.point[None])[0, 2])
    good = np.isfinite(z)
    now = _lift(corners[good], z[good], view.K)
    track.pixels, track.corners = corners[good], transform_points(invert(track.T), now)


def _sample(view: View, pixels: Array) -> tuple[Array, Array, Mask]:
    """Depth (...) and colour (...,3) at pixels (...,2), and which of them are inside."""
    height, width = view.gray.shape
    rounded = np.rint(np.nan_to_num(pixels, nan=-9.0)).astype(np.int64)
    u, v = rounded[..., 0], rounded[..., 1]
    inside = (u >= 0) & (v >= 0) & (u < width) & (v < height)
    u, v = np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)
    return view.depth[v, u].astype(np.float64), view.rgb[v, u].astype(np.float64), np.asarray(inside)


def _depth_at(view: View, pixels: Array) -> Array:
    """Depth (N,) m at pixels (N,2): the median of a small cross, NaN where nothing is known."""
    offsets = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], np.float64)
    depth, _, _ = _sample(view, pixels[:, None] + offsets)
    depth = np.sort(depth, axis=1)  # NaN last
    count = np.isfinite(depth).sum(1)
    return np.asarray(depth[np.arange(len(depth)), np.maximum(count - 1, 0) // 2])


def _project(points: Array, K: Array) -> Array:
    z = np.maximum(points[:, 2:], 1e-3)
    return np.asarray(points[:, :2] / z * [K[0, 0], K[1, 1]] + [K[0, 2], K[1, 2]])


def _lift(pixels: Array, z: Array, K: Array) -> Array:
    x = (pixels[:, 0] - K[0, 2]) / K[0, 0] * z
    y = (pixels[:, 1] - K[1, 2]) / K[1, 1] * z
    return np.stack([x, y, z], 1)


def _full(pixel: Array, scale: float) -> Array:
    return np.asarray((pixel + 0.5) / scale - 0.5)
