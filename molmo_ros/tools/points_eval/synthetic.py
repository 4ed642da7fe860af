"""Write small data sets of simulated scenes in each published layout, to try ``molmo-ros eval points``.

python -m molmo_ros.tools.points_eval.synthetic DIR --images 20
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage

from molmo_ros.datatypes import Array, Image, Mask
from molmo_ros.sim import SimCamera
from molmo_ros.sim.objects import PLURALS
from molmo_ros.tools.points_eval.protocols import (
    COUNTBENCH,
    EXPLANATIONS,
    PIXMO_COUNT,
    PIXMO_POINTS,
    POINT_BENCH,
)

CATEGORIES = ("affordable", "counting", "reasoning", "spatial", "steerable")
Scene = tuple[int, Image, str, tuple[Mask, ...]]


def write_all(folder: Path, images: int, seed: int = 0, width: int = 320, height: int = 240) -> None:
    """Write a folder for each protocol, named after it, of the same simulated scenes."""
    scenes = list(_scenes(images, seed, width, height))
    for writer, name in (
        (_pixmo_points, PIXMO_POINTS),
        (_point_bench, POINT_BENCH),
        (_pixmo_count, PIXMO_COUNT),
        (_countbench, COUNTBENCH),
        (_explanations, EXPLANATIONS),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        writer(folder / name, scenes)


def _scenes(images: int, seed: int, width: int, height: int) -> Iterator[Scene]:
    """(seed, picture, a kind in it as plural, the masks of all its things of the kind)."""
    for i in range(images):
        camera = SimCamera(seed + i, width, height)
        truth = camera.truth
        kinds = sorted({o.kind for o in truth.objects})
        kind = kinds[np.random.default_rng([seed, i]).integers(len(kinds))]
        masks = tuple(truth.ids == k for k, o in enumerate(truth.objects, 1) if o.kind == kind)
        yield seed + i, camera.frame().rgb, PLURALS[kind], masks


def _png(rgb: Image) -> bytes:
    buffer = BytesIO()
    PilImage.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def _with_urls(folder: Path, scenes: list[Scene]) -> list[dict[str, Any]]:
    """Columns image_url and image_sha256 of each scene; pictures are named by the hash of their URL."""
    (folder / "images").mkdir(exist_ok=True)
    rows = []
    for seed, rgb, _, _ in scenes:
        url, data = f"https://example.org/scene{seed}.png", _png(rgb)
        (folder / "images" / hashlib.sha256(url.encode()).hexdigest()).write_bytes(data)
        rows.append({"image_url": url, "image_sha256": hashlib.sha256(data).hexdigest()})
    return rows


def _middles(masks: tuple[Mask, ...]) -> Array:
    """(N,2) px: of each mask, the pixel nearest to its middle, from the outer corner of the image."""
    found = []
    for mask in masks:
        pixels = np.argwhere(mask)[:, ::-1]
        found.append(pixels[np.argmin(np.linalg.norm(pixels - pixels.mean(axis=0), axis=1))] + 0.5)
    return np.array(found).reshape(-1, 2)


def _percent(masks: tuple[Mask, ...], rgb: Image) -> list[dict[str, float]]:
    return [{"x": 100 * x / rgb.shape[1], "y": 100 * y / rgb.shape[0]} for x, y in _middles(masks).tolist()]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _pixmo_points(folder: Path, scenes: list[Scene]) -> None:
    rows = [
        {**url, "label": label, "points": _percent(masks, rgb), "masks": [m.tolist() for m in masks]}
        for url, (_, rgb, label, masks) in zip(_with_urls(folder, scenes), scenes, strict=True)
    ]
    _write(folder / "data" / "test-00000-of-00001.parquet", rows)


def _pixmo_count(folder: Path, scenes: list[Scene]) -> None:
    rows = []
    for url, (_, _, label, masks) in zip(_with_urls(folder, scenes), scenes, strict=True):
        x, y = _middles(masks).T.tolist()
        rows.append({**url, "label": label, "count": len(masks), "points": {"x": x, "y": y}})
    _write(folder / "data" / "test-00000-of-00001.parquet", rows)


def _countbench(folder: Path, scenes: list[Scene]) -> None:
    rows = [
        {"image": {"bytes": _png(rgb), "path": None}, "text": f"{len(masks)} {label}", "number": len(masks)}
        for _, rgb, label, masks in scenes
    ]
    _write(folder / "train-00000-of-00001.parquet", rows)
    questions = [{"question": f"How many {label} are there?"} for _, _, label, _ in scenes]
    (folder / "countbench_paired_questions.json").write_text(json.dumps(questions), encoding="utf-8")


def _explanations(folder: Path, scenes: list[Scene]) -> None:
    rows = []
    for url, (_, rgb, label, masks) in zip(_with_urls(folder, scenes), scenes, strict=True):
        words = {
            "question": f"Point to all the {label}.",
            "response": f"The {label}.",
            "parsed_response": "<|POINT|>",
        }
        slots = {"alt_text": [label], "inline_text": [label], "points": [_percent(masks, rgb)]}
        rows.append({**url, **words, **slots})
    _write(folder / "data" / "train-00000-of-00001.parquet", rows)


def _point_bench(folder: Path, scenes: list[Scene]) -> None:
    entries = []
    for i, (seed, rgb, label, masks) in enumerate(scenes):
        category, name = CATEGORIES[i % len(CATEGORIES)], f"scene{seed}.png"
        for sub, pixels in (
            ("selected_images", rgb),
            ("selected_masks", 255 * np.any(masks, axis=0).astype(np.uint8)),
        ):
            (folder / sub / category).mkdir(parents=True, exist_ok=True)
            PilImage.fromarray(pixels).save(folder / sub / category / name)
        words = {"user_input": f"Point to all the {label}.", "category": category}
        entries.append({**words, "image_filename": name, "mask_filename": name})
    (folder / "data.json").write_text(json.dumps(entries), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument(
        "--images", type=int, default=20, metavar="N", help="scenes in each data set (default 20)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    args = parser.parse_args()
    write_all(args.folder, args.images, args.seed)


if __name__ == "__main__":
    main()
