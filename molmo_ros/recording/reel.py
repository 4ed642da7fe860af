"""Frames to look at one by one: a folder of files, in any order, or a bag, from its start to its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.errors import CameraInfoError, FrameError, ParameterError
from molmo_ros.io import read_frame
from molmo_ros.recording.bag import open_bag

COLOR, DEPTH, INFO = ("_color.png", "_color.jpg"), "_depth.png", "camera_info"
FOLDER_HZ = 2.0  # files have no frame rate of their own
SLOP_S = 0.02


@dataclass(frozen=True)
class Shot:
    """One frame, or why it cannot be used; query: what had been asked about it, if that was saved."""

    name: str
    frame: RgbdFrame | None
    error: str = ""
    query: str = ""


class Reel(Protocol):
    """Used by one thread, which also opens it with its first move."""

    name: str
    rate_hz: float

    def move(self, to: str) -> Shot:
        """Go to the "first", "previous" or "next" frame. Raises: FrameError, ParameterError."""

    def close(self) -> None:
        """Close the files."""


class FolderReel:
    """Frames as ``eval objects`` and ``sim frames`` have them; after the last one comes the first."""

    rate_hz = FOLDER_HZ

    def __init__(self, folder: str | Path) -> None:
        """Raises: FrameError if there are none."""
        self._folder = Path(folder).expanduser()
        self.name = str(folder)
        self._colors = sorted(path for end in COLOR for path in self._folder.glob("*" + end))
        self._at = -1
        if not self._colors:
            raise FrameError(
                f"There is no NAME_color.png in {folder}; give a folder with NAME_color.png, NAME_depth.png "
                "and camera_info.yaml (docs/eval_objects.md)."
            )

    def move(self, to: str) -> Shot:
        """See Reel."""
        step = {"first": -self._at, "previous": -1, "next": 1}[to]
        self._at = (self._at + step) % len(self._colors)
        color = self._colors[self._at]
        name = color.name.rsplit("_", 1)[0]
        title = f"{self._at + 1} of {len(self._colors)}: {name}"
        query = _saved_query(self._folder / f"{name}_answer.json")
        try:
            frame = read_frame(color, self._folder / (name + DEPTH), self._camera_info(name))
        except (FrameError, CameraInfoError) as error:
            return Shot(title, None, str(error), query)
        return Shot(title, frame, query=query)

    def close(self) -> None:
        """Nothing is open."""

    def _camera_info(self, name: str) -> Path:
        for stem in (f"{name}_{INFO}", INFO):
            for path in (self._folder / f"{stem}.yaml", self._folder / f"{stem}.json"):
                if path.is_file():
                    return path
        raise FrameError(f"{self._folder} has no {INFO}.yaml; add that of the colour camera.")


class BagReel:
    """The frames of a recording. It only goes forward, and from its end back to its start."""

    def __init__(self, bag: str, image: str = "", depth: str = "", camera_info: str = "") -> None:
        """The names of topics are found by type where they are empty. Raises: FrameError."""
        self.name, self._wanted = bag, (image, depth, camera_info)
        with open_bag(bag) as opened:  # errors are reported at once
            self.rate_hz = opened.rate_hz(opened.find_topics(*self._wanted).image)
        self._files = ExitStack()
        self._shots: Iterator[Shot] | None = None

    def move(self, to: str) -> Shot:
        """See Reel."""
        if to == "previous":
            raise ParameterError("A bag is read forward; go to the first frame, or to the next one.")
        if to == "first" or self._shots is None:
            self._rewind()
        assert self._shots is not None
        shot = next(self._shots, None)
        if shot is None:
            self._rewind()
            shot = next(self._shots)
        return shot

    def close(self) -> None:
        """Close the bag."""
        self._files.close()
        self._shots = None

    def _rewind(self) -> None:
        self.close()
        self._files = ExitStack()
        bag = self._files.enter_context(open_bag(self.name))
        frames = bag.frames(bag.find_topics(*self._wanted), SLOP_S)
        self._shots = (_bag_shot(number, stamp, frame) for number, (stamp, frame) in enumerate(frames, 1))


def _bag_shot(number: int, stamp_ns: int, frame: RgbdFrame | FrameError | CameraInfoError) -> Shot:
    title = f"frame {number}, {stamp_ns / 1e9:.2f} s"
    return Shot(title, frame) if isinstance(frame, RgbdFrame) else Shot(title, None, str(frame))


def _saved_query(path: Path) -> str:
    """What was asked when the node saved a frame; empty if it did not."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["query"])[:256]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
