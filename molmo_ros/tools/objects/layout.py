"""Read a folder of recorded frames with points on objects (docs/eval_objects.md has the layout)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from molmo_ros.datatypes import Array, ImagePoint, Index, Mask, RgbdFrame
from molmo_ros.errors import FrameError
from molmo_ros.io import read_frame
from molmo_ros.transforms import unit

POINTS = "_points.json"
LABELS = "_labels.png"
REFUSE = "refuse"
KEYS = {"name", "x", "y", "polygon", "label", "expected"}


@dataclass(frozen=True)
class Labelled:
    """A pixel x, y on an object; mask (H,W), its visible part, or None; refuse: it cannot be grasped, and
    should be refused.
    """

    name: str
    x: float
    y: float
    mask: Mask | None = None
    refuse: bool = False

    @property
    def point(self) -> ImagePoint:
        return ImagePoint(self.x, self.y, self.name)


@dataclass(frozen=True)
class Recorded:
    """One frame with its labelled points; up (3,), away from the ground in the optical frame, or None."""

    name: str
    frame: RgbdFrame
    points: tuple[Labelled, ...]
    up: Array | None = None


def read_folder(folder: str | Path) -> Iterator[Recorded]:
    """Yield the frames of a folder in the order of their names.

    Raises: FrameError, CameraInfoError: no such folder, or what is wrong with which file.
    """
    folder = Path(folder)
    lists = sorted(folder.glob("*" + POINTS))
    if not lists:
        raise FrameError(
            f"There is no *{POINTS} in {folder}; give a folder with NAME_color.png, NAME_depth.png, "
            f"NAME{POINTS} for each frame and camera_info.yaml for all."
        )
    for path in lists:
        yield _read(folder, path)


def _read(folder: Path, path: Path) -> Recorded:
    name = path.name.removesuffix(POINTS)
    content = _json(path)
    color = _first(folder, f"{name}_color.png", f"{name}_color.jpg")
    stems = (f"{name}_camera_info", "camera_info")
    info = _first(folder, *(f"{stem}.{ending}" for stem in stems for ending in ("yaml", "json")))
    frame = read_frame(color, folder / f"{name}_depth.png", info)
    labels = _labels(folder / f"{name}{LABELS}", frame)
    points = tuple(_labelled(path, entry, frame, labels) for entry in content["points"])
    return Recorded(name, frame, points, _up(path, content.get("up")))


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FrameError(f"{folder} has none of {', '.join(names)}; add one of them.")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FrameError(f"Cannot read {path}: {error}; give a JSON file.") from error
    if not isinstance(content, dict) or not isinstance(content.get("points"), list):
        raise FrameError(f'{path} holds no list of points; give {{"points": [{{"name", "x", "y"}}, ...]}}.')
    return content


def _labels(path: Path, frame: RgbdFrame) -> Index | None:
    """Read the image of labels (H,W), the number of the object at each pixel, or None if there is none."""
    if not path.is_file():
        return None
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.shape != frame.depth.shape or labels.dtype.kind != "u":
        height, width = frame.depth.shape
        raise FrameError(f"{path} is no {width}x{height} image of one channel; give the number of an object.")
    return labels.astype(np.intp)


def _labelled(path: Path, entry: Any, frame: RgbdFrame, labels: Index | None) -> Labelled:
    if not isinstance(entry, dict) or not {"name", "x", "y"} <= entry.keys() <= KEYS:
        raise FrameError(
            f"{path}: {entry!r} is no point; give name, x, y, and optionally polygon or label, and expected."
        )
    expected = entry.get("expected", "")
    if expected not in ("", REFUSE):
        raise FrameError(f"{path}: expected is {expected!r}; give {REFUSE!r}, or leave it out.")
    height, width = frame.depth.shape
    x, y = (_number(path, entry, key) for key in ("x", "y"))
    if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        raise FrameError(f"{path}: {entry['name']} ({x:g}, {y:g}) is outside of the {width}x{height} image.")
    mask = _polygon(path, entry, frame) if "polygon" in entry else _label(path, entry, labels)
    return Labelled(str(entry["name"]), x, y, mask, expected == REFUSE)


def _number(path: Path, entry: dict[str, Any], key: str) -> float:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FrameError(f"{path}: {key} of {entry['name']} is {value!r}; give a number of pixels.")
    return float(value)


def _polygon(path: Path, entry: dict[str, Any], frame: RgbdFrame) -> Mask:
    try:
        corners = np.asarray(entry["polygon"], dtype=np.float64)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise FrameError(f"{path}: polygon of {entry['name']} is no list of at least 3 [x, y]; give one.")
    filled = np.zeros(frame.depth.shape, dtype=np.uint8)
    cv2.fillPoly(filled, [np.round(corners).astype(np.int32)], 1)
    return filled > 0


def _label(path: Path, entry: dict[str, Any], labels: Index | None) -> Mask | None:
    if "label" not in entry:
        return None
    if labels is None:
        raise FrameError(
            f"{path}: {entry['name']} has a label, but there is no {path.name.removesuffix(POINTS)}{LABELS}; "
            "add that image, or give a polygon."
        )
    mask: Mask = labels == int(_number(path, entry, "label"))
    if not mask.any():
        raise FrameError(f"{path}: no pixel has the label {entry['label']} of {entry['name']}; correct it.")
    return mask


def _up(path: Path, value: Any) -> Array | None:
    if value is None:
        return None
    try:
        up = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        up = np.zeros(0)
    if up.shape != (3,) or not np.isfinite(up).all() or np.linalg.norm(up) < 1e-6:
        raise FrameError(f"{path}: up is {value!r}; give a direction [x, y, z] in the optical frame.")
    return unit(up)
