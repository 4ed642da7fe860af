"""Results on disk, a line of JSON for each answer: from these a killed evaluation resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from molmo_ros.errors import ParameterError


class Results:
    """The file of one run. Its first line says what ran; another run does not continue it."""

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        """Open or make the file. Raises: ParameterError if it is of another run."""
        self.path = path
        lines = _whole_lines(path)
        if lines and lines[0] != run:
            differs = ", ".join(k for k in run if lines[0].get(k) != run[k])
            raise ParameterError(
                f"{path} is of a run with another {differs or 'version'}; give another --out, or remove it."
            )
        self.rows: dict[str, dict[str, Any]] = {row["key"]: row for row in lines[1:]}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(_line(entry) for entry in (run, *self.rows.values()))
        part = path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")  # without a line that a kill cut off
        part.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def add(self, row: dict[str, Any]) -> None:
        """Keep one answer; it is on disk when this returns."""
        self.rows[row["key"]] = row
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The entries of a file, up to the first incomplete one."""
    entries: list[dict[str, Any]] = []
    if not path.is_file():
        return entries
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not isinstance(entry, dict) or (entries and "key" not in entry):
            break
        entries.append(entry)
    return entries
