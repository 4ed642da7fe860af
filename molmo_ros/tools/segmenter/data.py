"""Render training scenes to disk: shards of colour, depth as sensors see it, instances and points on them.

Resumable by shard. The scenes and sensors are those of ``sim.wild`` and ``sim.sensors``, all parameters drawn
anew for each scene; evaluation uses other seeds.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Depth

WIDTH, HEIGHT = 480, 360
SHARD = 50  # scenes
FARTHEST_M = 30.0
SENSORS = {"stereo": 0.7, "structured_light": 0.1, "tof": 0.1, "dropout": 0.05, "perfect": 0.05}
POINTS_PER_THING, POINTS_OFF = 8, 3
CROWDED_POOL = range(300)  # individuals of each kind of shape, where things are dropped anew for each scene
LEAST_PIXELS = 70  # that a thing must show for a point on it


@dataclass(frozen=True)
class Frames:
    """N scenes, and P points on them.

    rgb (N,H,W,3) uint8; depth (N,H,W) int16 mm, 0 where there is none; ids (N,H,W) uint8, 0: no thing;
    camera (N,4) fx, fy, cx, cy px; plane (N,4), the table in the optical frame; points (P,5) int32: scene,
    u, v, instance (0: beside all things), depth in mm.
    """

    rgb: np.ndarray
    depth: np.ndarray
    ids: np.ndarray
    camera: np.ndarray
    plane: np.ndarray
    points: np.ndarray


def render_scene(seed: int, crowded: float = 0.0) -> Frames:
    """One scene of a seed, as Frames with N = 1; crowded is the probability that it is a crowded one."""
    from molmo_ros.sim.sensors import SensorView, sensed_depth
    from molmo_ros.sim.wild import POOL, TRAINING, wild_view

    rng = np.random.default_rng([seed, TRAINING])
    among = crowded > 0 and rng.random() < crowded
    view, K, scene = wild_view(rng, WIDTH, HEIGHT, CROWDED_POOL if among else POOL, crowded=among)
    sensor = str(rng.choice(list(SENSORS), p=list(SENSORS.values())))
    depth = sensed_depth(SensorView(view.depth, view.rgb, view.material), K, sensor, rng)
    depth = np.where(np.isfinite(depth) & (depth < FARTHEST_M), depth, 0.0)
    return Frames(
        rgb=view.rgb[None],
        depth=np.round(1000 * depth).astype(np.int16)[None],
        ids=view.ids.astype(np.uint8)[None],
        camera=K[[0, 1, 0, 1], [0, 1, 2, 2]].astype(np.float32)[None],
        plane=table_plane(scene.T_world_camera)[None],
        points=draw_points(view.ids, depth, view.depth, rng),
    )


def table_plane(T_world_camera: Array) -> np.ndarray:
    """The plane z = 0 of the world in the camera's optical frame, (4,) float32."""
    return np.append(T_world_camera[2, :3], T_world_camera[2, 3]).astype(np.float32)


def draw_points(ids: np.ndarray, sensed: Depth, true: Depth, rng: np.random.Generator) -> np.ndarray:
    """Draw points (P,5) on each thing that shows enough of itself, a third in its middle, and beside all
    things."""
    rows = []
    counts = np.bincount(ids.ravel())
    for thing in np.flatnonzero(counts >= LEAST_PIXELS):
        mask = ids == thing
        inside = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        pixel = np.flatnonzero(inside.ravel() > 1.0)
        if len(pixel) == 0:
            continue
        central = inside.ravel()[pixel] ** 2
        count = POINTS_OFF if thing == 0 else POINTS_PER_THING
        uniform = rng.choice(pixel, count - count // 3)
        middle = rng.choice(pixel, count // 3, p=central / central.sum())
        for p in np.concatenate([uniform, middle]):
            v, u = divmod(int(p), ids.shape[1])
            z = _depth_at(sensed, v, u, float(true[v, u]))
            if z > 0:
                rows.append((0, u, v, thing, round(1000 * z)))
    return np.array(rows, np.int32).reshape(-1, 5)


def _depth_at(sensed: Depth, v: int, u: int, true: float) -> float:
    """The depth read at a pixel: the median of a window that widens to bridge holes; 0 if there is
    nothing."""
    for half in (2, 6):
        window = sensed[max(v - half, 0) : v + half + 1, max(u - half, 0) : u + half + 1]
        usable = window[window > 0]
        own = usable[np.abs(usable - true) < 0.03]
        if len(own) > 0.2 * window.size:
            return float(np.median(own))
        if len(usable) > 0.5 * window.size:
            return float(np.median(usable))
    return 0.0


def render_shard(folder: Path, index: int, first: int = 0, crowded: float = 0.0) -> Path:
    """Render one shard, unless it is there already."""
    cv2.setNumThreads(1)
    path = shard_path(folder, index)
    if path.exists():
        return path
    scenes = [render_scene(first + index * SHARD + i, crowded) for i in range(SHARD)]
    part = path.with_suffix(f".{os.getpid()}.part.npz")
    np.savez(part, **{f.name: getattr(joined(scenes), f.name) for f in fields(Frames)})
    part.rename(path)
    return path


def joined(parts: list[Frames]) -> Frames:
    """Put frames together; points keep their scenes."""
    first = np.cumsum([0] + [len(p.rgb) for p in parts])
    points = [p.points + np.array([n, 0, 0, 0, 0], np.int32) for p, n in zip(parts, first, strict=False)]
    others = {f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Frames)}
    return Frames(**{**others, "points": np.concatenate(points)})


def shard_path(folder: Path, index: int) -> Path:
    """Where a shard lies."""
    return folder / f"{index:05d}.npz"


def shards(folder: Path) -> list[Path]:
    """The finished shards of a folder, in order."""
    return sorted(p for p in folder.glob("*.npz") if ".part" not in p.name)


def load(path: Path) -> Frames:
    """One shard in memory, 1.1 MB a scene."""
    with np.load(path) as shard:
        return Frames(**{f.name: shard[f.name] for f in fields(Frames)})


def main() -> None:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--crowded", type=float, default=0.0, help="share of bins, heaps and stacks")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    with ProcessPoolExecutor(args.workers) as pool:
        jobs = [
            pool.submit(render_shard, args.out, i, args.first, args.crowded)
            for i in range(-(-args.scenes // SHARD))
        ]
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="shard"):
            job.result()


if __name__ == "__main__":
    main()
