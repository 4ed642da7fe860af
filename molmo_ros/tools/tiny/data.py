"""Render training frames to disk: shards of colour, instance ids and names, resumable by shard."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 224, 168  # the camera's 4:3, a little above what the model sees
SHARD = 500
MAX_OBJECTS = 8
FIRST_SEED = 1_000_000_000  # evaluation uses small seeds


@dataclass(frozen=True)
class Frames:
    """rgb (N,H,W,3) uint8; ids (N,H,W) uint8; kinds and colors (N,MAX_OBJECTS) int8, -1 = none."""

    rgb: np.ndarray
    ids: np.ndarray
    kinds: np.ndarray
    colors: np.ndarray

    def __len__(self) -> int:
        return len(self.rgb)


def render_shard(folder: Path, index: int) -> Path:
    """Render one shard, unless it is there already."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from molmo_ros.sim import COLORS, KINDS, NoiseModel, SimCamera

    path = folder / f"{index:04d}.npz"
    if path.exists():
        return path
    colors = list(COLORS)
    rgb = np.empty((SHARD, HEIGHT, WIDTH, 3), np.uint8)
    ids = np.empty((SHARD, HEIGHT, WIDTH), np.uint8)
    names = np.full((2, SHARD, MAX_OBJECTS), -1, np.int8)
    for i in range(SHARD):
        camera = SimCamera(FIRST_SEED + index * SHARD + i, WIDTH, HEIGHT, NoiseModel(scale=0), threads=1)
        rgb[i], truth = camera.frame().rgb, camera.truth
        ids[i] = truth.ids
        for j, thing in enumerate(truth.objects):
            names[:, i, j] = KINDS.index(thing.kind), colors.index(thing.color)
    part = path.with_suffix(f".{os.getpid()}.part.npz")
    np.savez(part, rgb=rgb, ids=ids, kinds=names[0], colors=names[1])
    part.rename(path)
    return path


def shards(folder: Path) -> list[Path]:
    """The finished shards of a folder, in order."""
    paths = sorted(p for p in folder.glob("*.npz") if ".part" not in p.name)
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no shards; render them with python -m molmo_ros.tools.tiny.data"
        )
    return paths


def load(paths: list[Path]) -> Frames:
    """Shards in memory, 150 KB a frame."""
    n = len(paths) * SHARD
    frames = Frames(
        np.empty((n, HEIGHT, WIDTH, 3), np.uint8),
        np.empty((n, HEIGHT, WIDTH), np.uint8),
        np.empty((n, MAX_OBJECTS), np.int8),
        np.empty((n, MAX_OBJECTS), np.int8),
    )
    for i, path in enumerate(paths):
        part = slice(i * SHARD, (i + 1) * SHARD)
        with np.load(path) as shard:
            for name in ("rgb", "ids", "kinds", "colors"):
                getattr(frames, name)[part] = shard[name]
    return frames


def main() -> None:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=32_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    shards = range(-(-args.frames // SHARD))
    with ProcessPoolExecutor(args.workers) as pool:
        jobs = [pool.submit(render_shard, args.out, i) for i in shards]
        for job in tqdm(jobs, unit="shard"):
            job.result()


if __name__ == "__main__":
    main()
