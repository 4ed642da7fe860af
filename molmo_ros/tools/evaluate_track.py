"""How well the tracker follows on simulated scenes in motion: ``python -m molmo_ros.tools.evaluate_track``.

Each scene is seen three times: with a moving camera, with a moving object, and with an object that a screen
hides for a second. The point that is followed is a surface point whose truth is known at every time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from molmo_ros.datatypes import Array, ImagePoint
from molmo_ros.sim.moving import Motion, MovingFrame, moving_frames
from molmo_ros.track import Tracked, Tracker
from molmo_ros.track_patch import Seed
from molmo_ros.track_view import make_view

RATE_HZ = 15.0
LATENCY = 8  # frames that an answer is old when it comes
FULL_WIDTH = 640.0  # errors are told in pixels of an image of this width
MOTIONS = {
    "camera": (Motion(camera_mps=(0.02, 0.03, 0.02), camera_rps=0.15), 24),
    "object": (Motion(object_mps=(0.04, 0.02, 0.0)), 24),
    "hidden": (Motion(camera_mps=(0.03, 0.02, 0.0), hidden=(0.3, 1.3)), 27),
}


def seed_of(shot: MovingFrame, index: int) -> Seed:
    """A point well inside an object, as a good answer would be, with its mask."""
    mask = shot.ids == index + 1
    v, u = np.nonzero(mask)
    best = int(np.argmin(np.hypot(u - np.median(u), v - np.median(v))))
    return Seed(ImagePoint(float(u[best]), float(v[best]), "it", index + 1), mask)


def true_pixels(shots: Sequence[MovingFrame], x: float, y: float) -> Array:
    """(N,2) where the surface point at (x, y) of the first shot is in each shot."""
    K, seen = shots[0].frame.K, true_points(shots, x, y)
    return np.asarray(seen[:, :2] / seen[:, 2:] * [K[0, 0], K[1, 1]] + [K[0, 2], K[1, 2]])


def true_points(shots: Sequence[MovingFrame], x: float, y: float) -> Array:
    """(N,3) m: the same point in the optical frame of each shot."""
    K = shots[0].frame.K
    z = float(shots[0].frame.depth[round(y), round(x)])
    point = np.array([(x - K[0, 2]) / K[0, 0] * z, (y - K[1, 2]) / K[1, 1] * z, z, 1.0])
    own = np.linalg.inv(shots[0].T_camera_object) @ point
    return np.array([(shot.T_camera_object @ own)[:3] for shot in shots])


def follow(shots: Sequence[MovingFrame], seeds: Sequence[Seed]) -> tuple[list[tuple[Tracked, ...]], float]:
    """What is told after each shot, and the median seconds for a shot."""
    tracker, told, times = Tracker(), [], []
    for i, shot in enumerate(shots):
        start = time.perf_counter()
        view = make_view(shot.frame)
        told.append(tracker.update(view) if i else tracker.correct([view], seeds))
        times.append(time.perf_counter() - start)
    return told, float(np.median(times))


def run(first_seed: int, scenes: int, width: int, motions: Sequence[str]) -> dict[str, Any]:
    """The numbers over some scenes. Scenes whose point has no depth are left out."""
    errors: dict[str, list[float]] = {name: [] for name in motions}
    stale, carried, stale_mm, carried_mm, kept, seconds = [], [], [], [], [], []
    for seed in range(first_seed, first_seed + scenes):
        for name in motions:
            motion, count = MOTIONS[name]
            shots = list(moving_frames(seed, motion, count, RATE_HZ, width, width * 3 // 4))
            known = range(min(2, int(shots[0].ids.max())))
            seeds = [seed_of(shots[0], i) for i in known if np.any(shots[0].ids == i + 1)]
            truth = true_pixels(shots, seeds[0].point.x, seeds[0].point.y) * FULL_WIDTH / width
            if not np.isfinite(truth).all():
                continue
            told, spent = follow(shots, seeds)
            seconds.append(spent)
            found = np.array([(t[0].x, t[0].y) for t in told]) * FULL_WIDTH / width
            off = np.linalg.norm(found - truth, axis=1)
            if name == "hidden":
                kept.append(_is_itself(told[-1], shots[-1]))
                errors[name].append(float(off[-1]))
                continue
            errors[name] += [float(e) for e in off[1:]]
            late = Tracker().correct([make_view(s.frame) for s in shots[: LATENCY + 1]], seeds[:1])[0]
            late_px = np.array([late.x, late.y]) * FULL_WIDTH / width
            stale.append(float(np.linalg.norm(truth[LATENCY] - truth[0])))
            carried.append(float(np.linalg.norm(truth[LATENCY] - late_px)))
            points = true_points(shots, seeds[0].point.x, seeds[0].point.y)
            stale_mm.append(1e3 * float(np.linalg.norm(points[LATENCY] - points[0])))
            if late.position is not None:
                carried_mm.append(1e3 * float(np.linalg.norm(points[LATENCY] - late.position)))
    return {
        "scenes": scenes,
        "seed": first_seed,
        "width": width,
        "px_error_median": {name: _median(e) for name, e in errors.items()},
        "px_error_p90": {name: float(np.percentile(e, 90)) for name, e in errors.items() if e},
        "identity_kept": float(np.mean(kept)) if kept else None,
        "identity_runs": len(kept),
        "answer_age_s": LATENCY / RATE_HZ,
        "px_error_stale_median": _median(stale),
        "px_error_carried_median": _median(carried),
        "mm_error_stale_median": _median(stale_mm),
        "mm_error_carried_median": _median(carried_mm),
        "ms_per_frame": float(np.median(seconds)) * 1e3,
    }


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _is_itself(targets: Sequence[Tracked], shot: MovingFrame) -> bool:
    """Whether each instance is seen again, on its own object."""
    height, width = shot.ids.shape
    for target in targets:
        x, y = round(target.x), round(target.y)
        if target.lost or not (0 <= x < width and 0 <= y < height) or shot.ids[y, x] != target.instance:
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--motions", nargs="+", choices=list(MOTIONS), default=list(MOTIONS))
    args = parser.parse_args()
    print(json.dumps(run(args.seed, args.scenes, args.width, args.motions)))


if __name__ == "__main__":
    main()
