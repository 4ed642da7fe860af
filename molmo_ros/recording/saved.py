"""Queries as files: frame, answer and picture, in the layout that ``eval objects`` and ``ground`` read.

Of each query NAME: NAME_color.png, NAME_depth.png (16 bit, mm), NAME_camera_info.yaml, NAME_answer.json,
NAME_annotated.jpg, and last of all NAME_points.json, without which the rest does not count
(docs/eval_objects.md).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from molmo_ros.as_json import grounding_keys, to_plain
from molmo_ros.datatypes import Answer, Array, Grounding, ImagePoint, RgbdFrame, TargetStatus
from molmo_ros.errors import FrameError, MolmoRosError
from molmo_ros.io import write_camera_info, write_color, write_depth

POINTS, HIDDEN = "_points.json", ".saving_"
MAX_WORDS = 32  # characters of the query in a file's name


@dataclass(frozen=True)
class AnsweredQuery:
    """A frame, and the result of a query on it: a grounding in pixels of this frame, or an error.

    up (3,): away from the ground in the optical frame, or None if that is not known.
    """

    query: str
    frame: RgbdFrame
    grounding: Grounding | None = None
    error: MolmoRosError | None = None
    up: Array | None = None

    @property
    def failed(self) -> bool:
        """Whether it gave no target that can be used."""
        targets = () if self.grounding is None else self.grounding.targets
        return not any(target.status is TargetStatus.OK for target in targets)


class SavedQueries:
    """A folder of queries. It grows up to a number of queries and of bytes; nothing in it is ever deleted."""

    def __init__(self, folder: str | Path, max_count: int, max_mb: float) -> None:
        self.folder = Path(folder).expanduser()
        self._max_count, self._max_bytes = max_count, int(max_mb * 1e6)

    def save(self, query: AnsweredQuery) -> str:
        """Write a query and return its NAME; either all of its files are written, or none.

        Raises: FrameError if the folder is full or cannot be written to, or the disk is full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            hidden = Path(tempfile.mkdtemp(prefix=HIDDEN, dir=self.folder))
        except OSError as error:
            raise FrameError(
                f"Cannot save a query in {self.folder}: {error.strerror}; choose a folder you may write to."
            ) from error
        try:
            name = self._free_name(query.query)
            _write(query, hidden, name)
            self._check_room(sum(path.stat().st_size for path in hidden.iterdir()))
            self._publish(hidden, name)
        except OSError as error:
            raise FrameError(
                f"Cannot save a query in {self.folder}: {error.strerror}; free some space, or choose another "
                "folder (save_dir)."
            ) from error
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        return name

    def _check_room(self, more: int) -> None:
        """Raises: FrameError if another query, of this many bytes, would be too much."""
        sizes = [entry.stat().st_size for entry in os.scandir(self.folder) if entry.is_file()]
        count = len(list(self.folder.glob("*" + POINTS)))
        if count >= self._max_count or sum(sizes) + more > self._max_bytes:
            raise FrameError(
                f"{self.folder} is full: {count} queries of at most {self._max_count}, "
                f"{sum(sizes) / 1e6:.0f} of at most {self._max_bytes / 1e6:.0f} MB; move them away, or "
                "raise save_max_count and save_max_mb."
            )

    def _free_name(self, query: str) -> str:
        """Time and words of a query, in harmless characters only; not used yet."""
        words = re.sub(r"[^a-z0-9]+", "_", query.lower())[:MAX_WORDS].strip("_")
        stem = datetime.now(timezone.utc).strftime("%Y%m%d_%H%M%S_") + (words or "query")
        names = (stem if number == 1 else f"{stem}_{number}" for number in range(1, self._max_count + 2))
        return next(name for name in names if not (self.folder / (name + POINTS)).exists())

    def _publish(self, hidden: Path, name: str) -> None:
        """Move the files into the folder, the points last. Takes them back if that fails."""
        moved: list[Path] = []
        try:
            for path in sorted(hidden.iterdir(), key=lambda path: path.name.endswith(POINTS)):
                os.replace(path, self.folder / path.name)
                moved.append(self.folder / path.name)
        except OSError:
            for path in moved:
                with suppress(OSError):
                    path.unlink()
            raise


def _write(query: AnsweredQuery, folder: Path, name: str) -> None:
    """All files of a query."""
    from molmo_ros.draw import annotate  # usually the node needs it for nothing else

    frame = query.frame
    height, width = frame.depth.shape
    found = query.grounding or Grounding(query.query, Answer(""), ())
    write_color(folder / f"{name}_color.png", frame.rgb)
    write_depth(folder / f"{name}_depth.png", frame.depth)
    write_camera_info(folder / f"{name}_camera_info.yaml", frame.K, width, height, frame.frame_id)
    shown = found.targets or found.answer.points
    write_color(folder / f"{name}_annotated.jpg", annotate(frame.rgb, shown, query.query))
    _write_json(folder / f"{name}_answer.json", _answer(query, found))
    points = [target.point for target in found.targets] or list(found.answer.points)
    content: dict[str, Any] = {"points": _labelled(points, width, height)}
    if query.up is not None:
        content["up"] = query.up
    _write_json(folder / (name + POINTS), content)


def _answer(query: AnsweredQuery, found: Grounding) -> dict[str, Any]:
    """The keys of ``molmo-ros ground --json``, and which frame they are of."""
    error = query.error
    return {
        **grounding_keys(found),
        "error": "" if error is None else str(error),
        "code": "" if error is None else error.code,
        "frame_id": query.frame.frame_id,
        "stamp_ns": query.frame.stamp_ns,
        "rectified": query.frame.lens is not None,
    }


def _labelled(points: list[ImagePoint], width: int, height: int) -> list[dict[str, Any]]:
    """Points as ``eval objects`` expects them: named, and inside the image."""
    return [
        {
            "name": point.label if len(points) == 1 else f"{point.label} {point.instance}",
            "x": min(max(point.x, 0.0), width - 1.0),
            "y": min(max(point.y, 0.0), height - 1.0),
        }
        for point in points
    ]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(to_plain(content), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
