"""Files that results are written to; the ending of the name chooses which."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from molmo_ros.as_json import grounding_keys, to_plain
from molmo_ros.datatypes import Grounding, RgbdFrame
from molmo_ros.errors import FrameError
from molmo_ros.perception.rectify import raw_grounding
from molmo_ros.recording.replay import Replayed

LIBRARIES = {".mcap": "rosbags", ".rrd": "rerun"}
RECORDINGS = tuple(LIBRARIES)
ENDINGS = (".jsonl", ".json", *RECORDINGS)


class Output(Protocol):
    """Takes results one by one."""

    def add(self, result: Replayed) -> None:
        """A frame and its answer, or why there is none."""

    def close(self) -> None:
        """Finish the file. Raises: FrameError if that fails."""


class JsonLines:
    """One line of JSON for each result."""

    def __init__(self, path: str | Path) -> None:
        self._file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115 (``close`` closes it)

    def add(self, result: Replayed) -> None:
        """The keys of ``molmo-ros ground --json``, or the error."""
        self._file.write(json.dumps(to_plain(_record(result)), ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_output(path: str | Path) -> Output:
    """A file of this name, replaced if it exists.

    Raises: FrameError for another ending or folder; ModuleNotFoundError if the library for it is missing.
    """
    check_output(path, ENDINGS)
    if str(path).lower().endswith(".mcap"):
        from molmo_ros.recording.mcap import McapFile

        return McapFile(path)
    if str(path).lower().endswith(".rrd"):
        from molmo_ros.recording.rrd import RerunFile

        return RerunFile(path)
    return JsonLines(path)


def check_output(path: str | Path, endings: tuple[str, ...]) -> None:
    """Report early what would fail late.

    Raises: FrameError if the name has none of these endings, or its folder does not exist;
    ModuleNotFoundError if the library for it is missing.
    """
    if not str(path).lower().endswith(endings):
        raise FrameError(f"Cannot write {path}; give a name that ends in {', '.join(endings)}.")
    if not Path(path).absolute().parent.is_dir():
        raise FrameError(f"There is no folder {Path(path).parent}; make it, or give another path.")
    library = LIBRARIES.get(Path(path).suffix.lower(), "json")
    if find_spec(library) is None:
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)


def save_answer(path: str | Path, frame: RgbdFrame, found: Grounding) -> None:
    """One frame and its answer, in the optical frame. Raises: as open_output."""
    output = open_output(path)
    try:
        output.add(Replayed(0, frame.stamp_ns, True, frame, found))
    finally:
        output.close()


def _record(result: Replayed) -> dict[str, Any]:
    head = {"frame": result.number, "stamp_ns": result.stamp_ns, "asked": result.asked}
    if result.found is None:
        return {**head, "error": str(result.error), "code": getattr(result.error, "code", "ERROR")}
    lens = None if result.frame is None else result.frame.lens
    return {**head, **grounding_keys(raw_grounding(result.found, lens))}
