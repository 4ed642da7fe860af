"""Track what the model found from frame to frame, between its answers. Knows no ROS and no model.

An object is the patch of surface that was seen around its point: a few hundred samples with colour, and
corners that optical flow follows to each new frame. There the samples are aligned with the image to a
fraction of a pixel, so that errors do not add up, and show whether the object is still visible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.track.align import align
from molmo_ros.track.patch import Patch, Seed, begin, covered, move, refresh, search
from molmo_ros.track.scene import Scene
from molmo_ros.track.view import DEFAULT_TRACK, TrackOptions, View, full_size, project, seen_share
from molmo_ros.transforms import transform_points

NS = 1e9


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


class Tracker:
    """Follows several instances; give it every view in order, from one thread."""

    def __init__(self, options: TrackOptions = DEFAULT_TRACK, numbers: Iterator[int] | None = None) -> None:
        """numbers: source of instance numbers, if several trackers must not give the same ones; else 1, 2,
        ..."""
        self.options = options
        self._numbers = count(1) if numbers is None else numbers
        self._tracks: list[Patch] = []
        self._view: View | None = None
        self._scene = Scene(options)

    @property
    def lost(self) -> bool:
        """True if there is something to follow and none of it is seen."""
        return bool(self._tracks) and all(t.lost_ns is not None for t in self._tracks)

    def update(self, view: View) -> tuple[Tracked, ...]:
        """Follow everything into the next view."""
        before, self._view = self._view, view
        if before is not None:
            self._advance(self._tracks, self._scene, before, view)
        return self.targets()

    def correct(self, views: Sequence[View], seeds: Sequence[Seed]) -> tuple[Tracked, ...]:
        """Take in a new answer of the model, which may be about an old frame.

        Args: views, from the one that the answer is about to the newest, in order. The answer is propagated
        through them; a seed near to where a track was on views[0] keeps that track's identity.
        """
        fresh = [t for t in (begin(seed, views[0], self.options) for seed in seeds) if t is not None]
        self._identify(fresh, views[0].stamp_ns)
        scene = Scene(self.options)
        for before, view in pairwise(views):
            self._advance(fresh, scene, before, view)
        kept = {t.instance for t in fresh}
        for track in self._tracks:
            track.missed += 1
        # A track that the model does not see, but the images still show, is kept once.
        old = [t for t in self._tracks if t.instance not in kept and (t.missed < 2 or t.lost_ns is not None)]
        self._tracks = sorted(fresh + old, key=lambda t: t.instance)
        self._view, self._scene = views[-1], scene
        return self.targets()

    def targets(self) -> tuple[Tracked, ...]:
        """Everything in the newest view, also what is lost (where it would be if it had not moved)."""
        return tuple(self._tracked(t) for t in self._tracks)

    def _tracked(self, track: Patch) -> Tracked:
        assert self._view is not None
        position = transform_points(track.T, track.point[None])[0]
        pixel = full_size(project(position[None], self._view.K)[0], self._view.scale)
        lost_s = 0.0 if track.lost_ns is None else (self._view.stamp_ns - track.lost_ns) / NS
        return Tracked(
            instance=track.instance,
            seed=track.seed,
            x=float(pixel[0]),
            y=float(pixel[1]),
            position=position if track.surface.has_depth else None,
            T_now_then=track.T.copy(),
            seen=track.seen,
            lost=track.lost_ns is not None,
            lost_s=lost_s,
        )

    def _identify(self, fresh: list[Patch], stamp_ns: int) -> None:
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
            track.instance = taken.get(i, 0) or next(self._numbers)

    def _distance(self, new: Patch, old: Patch, stamp_ns: int) -> float:
        """Distance of two tracks at a stamp, 1 where they are too far apart to be the same thing."""
        stamps = [s for s in old.path if s <= stamp_ns]
        then = old.path[max(stamps)] if stamps else transform_points(old.T, old.point[None])[0]
        reach = self.options.near_m if old.lost_ns is None else self.options.near_lost_m
        tint = float(np.linalg.norm(new.surface.colors.mean(0) - old.surface.colors.mean(0)))
        return float(np.linalg.norm(new.point - then)) / reach + (tint / self.options.color) ** 2 / 4

    def _advance(self, tracks: list[Patch], scene: Scene, before: View, view: View) -> None:
        """Bring tracks from one view to the next."""
        if not tracks:
            return
        ego = scene.advance(before, view, covered(tracks, before))
        for track in tracks:
            track.T = ego @ track.T
            if track.lost_ns is None:
                self._follow(track, before, view, ego)
            if track.lost_ns is not None:
                self._look_for(track, view)
            if track.lost_ns is None:
                refresh(track, view, self.options)
            track.path[view.stamp_ns] = transform_points(track.T, track.point[None])[0]
            if len(track.path) > 200:
                del track.path[min(track.path)]

    def _follow(self, track: Patch, before: View, view: View, ego: Array) -> None:
        """Follow visible tracks; one with too few samples that agree is lost, and moves with the scene."""
        options, held = self.options, track.T
        move(track, before, view, ego, options)
        track.seen = seen_share(track.surface, track.T, view, options)
        if track.seen < options.found_again:  # flow has drifted, or it is half hidden: search around
            T, seen = search(track, track.T, view, 4.0, options)
            if seen > track.seen + 0.1:
                track.T, track.seen, track.pixels = T, seen, track.pixels[:0]
        self._align(track, view)
        if track.seen < options.least_seen:
            track.T, track.lost_ns = held, view.stamp_ns

    def _align(self, track: Patch, view: View) -> None:
        """Refine the pose by alignment, unless fewer samples agree there: an occluder may look alike."""
        T = align(track.surface, track.T, view, self.options)
        seen = seen_share(track.surface, T, view, self.options)
        if seen >= track.seen - 0.05:
            track.T, track.seen = T, seen

    def _look_for(self, track: Patch, view: View) -> None:
        """Search for a lost track around where it would be if it stood still, in a growing radius."""
        assert track.lost_ns is not None
        lost_s = (view.stamp_ns - track.lost_ns) / NS
        reach = min(self.options.search_px, 6.0 + 40.0 * lost_s)
        T, seen = search(track, track.T, view, reach, self.options)
        if seen >= self.options.found_again and not self._occupied(track, T):
            track.T, track.seen, track.lost_ns, track.pixels = T, seen, None, track.pixels[:0]
            self._align(track, view)

    def _occupied(self, track: Patch, T: Array) -> bool:
        """Whether another instance that is seen lies where this one would."""
        position = transform_points(T, track.point[None])[0]
        others = [t for t in self._tracks if t is not track and t.lost_ns is None]
        return any(np.linalg.norm(transform_points(t.T, t.point[None])[0] - position) < 0.03 for t in others)
