"""How well the tracker follows on simulated scenes in motion: ``python -m molmo_ros.tools.evaluate_track``.

Each scene is seen with a moving camera, a moving object, both, an object that also turns, and one that a
screen hides for a second. What is followed is a point of a surface whose place is known at every time; a late
answer is reported as it is (stale) and propagated to the newest frame. Round things may turn unnoticed: that
is why the middle of the object is measured too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from molmo_ros.datatypes import Array, ImagePoint
from molmo_ros.pipeline import Grounder
from molmo_ros.sim.moving import Motion, MovingFrame, moving_frames
from molmo_ros.track.patch import Seed
from molmo_ros.track.target import seed_of
from molmo_ros.track.tracker import Tracked, Tracker
from molmo_ros.track.view import make_view, project

RATE_HZ = 15.0
LATENCY = 8  # age of an answer in frames when it arrives
FULL_WIDTH = 640.0  # errors are given in pixels of an image of this width
MOTIONS = {
    "camera": (Motion(camera_mps=(0.02, 0.03, 0.02), camera_rps=0.15), 24),
    "object": (Motion(object_mps=(0.04, 0.02, 0.0)), 24),
    "both": (Motion(camera_mps=(0.02, 0.03, 0.0), camera_rps=0.1, object_mps=(0.0, 0.04, 0.0)), 24),
    "turning": (Motion(object_mps=(0.03, 0.02, 0.0), object_rps=0.5), 24),
    "hidden": (Motion(camera_mps=(0.03, 0.02, 0.0), hidden=(0.3, 1.3)), 27),
}
HIDDEN = 12  # a frame in the middle of that second


def true_seed(shot: MovingFrame, index: int) -> Seed:
    """A point well inside an object, as a good answer would be, with its mask."""
    mask = shot.ids == index + 1
    v, u = np.nonzero(mask)
    best = int(np.argmin(np.hypot(u - np.median(u), v - np.median(v))))
    return Seed(ImagePoint(float(u[best]), float(v[best]), "it", index + 1), mask)


def true_points(shots: Sequence[MovingFrame], x: float, y: float) -> Array:
    """(N,3) m: the surface point at (x, y) of the first shot, in the optical frame of each shot."""
    K = shots[0].frame.K
    z = float(shots[0].frame.depth[round(y), round(x)])
    point = np.array([(x - K[0, 2]) / K[0, 0] * z, (y - K[1, 2]) / K[1, 1] * z, z, 1.0])
    own = np.linalg.inv(shots[0].T_camera_object) @ point
    return np.array([(shot.T_camera_object @ own)[:3] for shot in shots])


def true_pixels(shots: Sequence[MovingFrame], x: float, y: float) -> Array:
    """(N,2) where the same point is in each shot."""
    return project(true_points(shots, x, y), shots[0].frame.K)


def follow(shots: Sequence[MovingFrame], seeds: Sequence[Seed]) -> tuple[list[tuple[Tracked, ...]], float]:
    """What is reported after each shot, and the median seconds per shot."""
    tracker, told, times = Tracker(), [], []
    for i, shot in enumerate(shots):
        start = time.perf_counter()
        view = make_view(shot.frame)
        told.append(tracker.update(view) if i else tracker.correct([view], seeds))
        times.append(time.perf_counter() - start)
    return told, float(np.median(times))


def run(
    first_seed: int, scenes: int, width: int, motions: Sequence[str], grounder: Grounder | None
) -> dict[str, Any]:
    """The numbers over some scenes, except those whose point is not found, or has no depth."""
    errors: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in motions}
    kept, seconds, left_out = [], [], 0
    for seed in range(first_seed, first_seed + scenes):
        for name in motions:
            motion, count = MOTIONS[name]
            shots = list(moving_frames(seed, motion, count, RATE_HZ, width, width * 3 // 4))
            seeds = _seeds(shots[0], grounder)
            if not seeds or not np.isfinite(true_points(shots, seeds[0].point.x, seeds[0].point.y)).all():
                left_out += 1
                continue
            told, spent = follow(shots, seeds)
            seconds.append(spent)
            if name == "hidden":
                kept.append(told[HIDDEN][0].lost and _is_itself(told[-1], shots[-1]))
                shots, told = [shots[0], shots[-1]], [told[0], told[-1]]
            else:
                _add_late(errors[name], shots[: LATENCY + 1], seeds[0])
            _add(errors[name], shots, [t[0] for t in told], seeds[0])
    return {
        "scenes": scenes,
        "seed": first_seed,
        "width": width,
        "left_out": left_out,
        **{name: _summary(errors[name]) for name in motions},
        "identity_kept": float(np.mean(kept)) if kept else None,
        "identity_runs": len(kept),
        "answer_age_s": LATENCY / RATE_HZ,
        "ms_per_frame": float(np.median(seconds)) * 1e3,
    }


def _seeds(shot: MovingFrame, grounder: Grounder | None) -> list[Seed]:
    """The object that moves and the next one; with a model: what it points at when asked for the first."""
    if grounder is None:
        return [true_seed(shot, i) for i in range(min(2, int(shot.ids.max()))) if np.any(shot.ids == i + 1)]
    targets = grounder.grasp(shot.frame, f"the {shot.name}").targets
    return [
        seed_of(target, None)
        for target in targets
        if shot.ids[round(target.point.y), round(target.point.x)] == 1
    ]


def _add(
    errors: dict[str, list[float]], shots: Sequence[MovingFrame], told: list[Tracked], seed: Seed
) -> None:
    """Pixels between where the point, and the middle of the object, are and where they are reported to be."""
    scale, K = FULL_WIDTH / shots[0].frame.depth.shape[1], shots[0].frame.K
    truth = true_pixels(shots, seed.point.x, seed.point.y)
    off = np.linalg.norm(np.array([(t.x, t.y) for t in told]) - truth, axis=1) * scale
    start = shots[0].T_camera_object[:, 3]
    middle = project(np.array([shot.T_camera_object[:3, 3] for shot in shots]), K)
    told_middle = project(np.array([(t.T_now_then @ start)[:3] for t in told]), K)
    errors["px"] += [float(e) for e in off[1:]]
    errors["middle_px"] += [float(e) * scale for e in np.linalg.norm(told_middle - middle, axis=1)[1:]]


def _add_late(errors: dict[str, list[float]], shots: Sequence[MovingFrame], seed: Seed) -> None:
    """An answer about the first shot that arrives with the last one: reported as it is, and propagated
    there."""
    scale = FULL_WIDTH / shots[0].frame.depth.shape[1]
    pixels = true_pixels(shots, seed.point.x, seed.point.y) * scale
    points = true_points(shots, seed.point.x, seed.point.y)
    late = Tracker().correct([make_view(shot.frame) for shot in shots], [seed])[0]
    errors["stale_px"].append(float(np.linalg.norm(pixels[-1] - pixels[0])))
    errors["carried_px"].append(float(np.linalg.norm(pixels[-1] - np.array([late.x, late.y]) * scale)))
    errors["stale_mm"].append(1e3 * float(np.linalg.norm(points[-1] - points[0])))
    if late.position is not None:
        errors["carried_mm"].append(1e3 * float(np.linalg.norm(points[-1] - late.position)))


def _summary(errors: dict[str, list[float]]) -> dict[str, float]:
    medians = {f"{key}_median": float(np.median(values)) for key, values in errors.items()}
    return medians | {f"{key}_p90": float(np.percentile(values, 90)) for key, values in errors.items()}


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
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--motions", nargs="+", choices=list(MOTIONS), default=list(MOTIONS))
    parser.add_argument(
        "--points", choices=("truth", "model"), default="truth", help="model: the built-in one's"
    )
    args = parser.parse_args()
    grounder = Grounder.load() if args.points == "model" else None
    print(json.dumps(run(args.seed, args.scenes, args.width, args.motions, grounder)))


if __name__ == "__main__":
    main()
