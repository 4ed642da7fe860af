"""Labelled point clouds as a folder for ``molmo-ros eval objects``:
``python -m molmo_ros.tools.objects.from_clouds CLOUDS OUT``.

For the Object Segmentation Database of TU Wien with the labels of Alexandrov, frames of a Kinect, which
github.com/PointCloudLibrary/data holds under segmentation/mOSD (BSD). Any PCD file works whose points lie in
the grid of the image, with colour and a field ``label``: 0 nothing, 1 to 9 table, 20 to 29 parts of the first
object, 30 to 39 of the second, and so on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from molmo_ros.datatypes import Array, Index, RgbdFrame
from molmo_ros.errors import FrameError
from molmo_ros.io import write_camera_info, write_color, write_depth

PARTS = 10  # labels of one object
FIRST = 2  # object; below are nothing and the table
LEAST_PX = 300  # of an object's largest visible part; smaller ones are hardly asked for


@dataclass(frozen=True)
class Labelled:
    """A frame, and the label (H,W) of the part at each pixel."""

    frame: RgbdFrame
    parts: Index


def read_cloud(path: Path) -> Labelled:
    """Read an organised PCD file. Raises: FrameError if it is not one, or has no colour or labels."""
    import open3d  # it reads compressed PCD files with fields of any name

    width, height = _size(path)
    fields: Any = open3d.t.io.read_point_cloud(path).point
    if height < 2 or "label" not in fields or "colors" not in fields:
        raise FrameError(f"{path} is {width}x{height}; give an organised cloud with colour and labels.")
    points = fields.positions.numpy().reshape(height, width, 3)
    depth = np.where(points[..., 2] > 0, points[..., 2], np.float32(np.nan))
    rgb = np.ascontiguousarray(fields.colors.numpy().reshape(height, width, 3))
    frame = RgbdFrame(rgb, depth.astype(np.float32), _intrinsics(points))
    return Labelled(frame, fields.label.numpy().reshape(height, width).astype(np.intp))


def _size(path: Path) -> tuple[int, int]:
    """Read width and height from a PCD file's header, which is text whatever the rest is."""
    try:
        with path.open("rb") as file:
            head = dict(file.readline().split(maxsplit=1) for _ in range(9))
        return int(head[b"WIDTH"]), int(head[b"HEIGHT"])
    except (KeyError, ValueError) as error:
        raise FrameError(f"{path} tells no width and height; give a PCD file, version 0.7.") from error


def _intrinsics(points: Array) -> Array:
    """Find K (3,3) from the points (H,W,3) of an organised cloud: columns are fx x / z + cx."""
    v, u = np.nonzero(points[..., 2] > 0)
    x, y, z = points[v, u].astype(np.float64).T
    fx, cx = np.polyfit(x / z, u, 1)
    fy, cy = np.polyfit(y / z, v, 1)
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def points_of(parts: Index) -> list[dict[str, Any]]:
    """Return for each object of labels (H,W) a point in the middle of its largest part."""
    points = []
    for one in np.unique(parts // PARTS):
        own = np.where(parts // PARTS == one, parts, 0)
        count = np.bincount(own[own > 0])
        if one < FIRST or count.max() < LEAST_PX:
            continue
        inside = cv2.distanceTransform((own == np.argmax(count)).astype(np.uint8), cv2.DIST_L2, 5)
        y, x = np.unravel_index(int(np.argmax(inside)), inside.shape)
        points.append({"name": f"object {one - 1}", "x": int(x), "y": int(y), "label": int(one)})
    return points


def main(argv: Sequence[str] | None = None) -> int:
    """Convert all *.pcd below a folder; unreadable files are reported and skipped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clouds", type=Path, help="folder with *.pcd")
    parser.add_argument("out", type=Path, help="folder to write, for eval objects --data")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    written = 0
    for path in sorted(args.clouds.rglob("*.pcd")):
        try:
            cloud = read_cloud(path)
        except FrameError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        stem, frame = args.out / path.stem, cloud.frame
        height, width = frame.depth.shape
        write_color(Path(f"{stem}_color.png"), frame.rgb)
        write_depth(Path(f"{stem}_depth.png"), frame.depth)
        write_camera_info(Path(f"{stem}_camera_info.yaml"), frame.K, width, height, "camera")
        cv2.imwrite(f"{stem}_labels.png", (cloud.parts // PARTS).astype(np.uint16))
        Path(f"{stem}_points.json").write_text(json.dumps({"points": points_of(cloud.parts)}))
        written += 1
    print(f"{written} frames in {args.out}")
    return int(written == 0)


if __name__ == "__main__":
    raise SystemExit(main())
