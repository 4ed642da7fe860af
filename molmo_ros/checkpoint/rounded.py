"""A checkpoint's matrices, quantised beforehand: a folder that stands for the checkpoint.

The folder holds ``quantised.json``, copies of the checkpoint's small files, and for each layer one file of
integers and scales; all other weights stay in the checkpoint, whose path is recorded. Whatever takes a
checkpoint takes such a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import AnyArray
from molmo_ros.errors import CheckpointError
from molmo_ros.untrusted import read_json

QUANTISED = "quantised.json"
FORMAT = 1
VALUES, SCALES, FOLDED = ".values", ".scales", ".folded"


@dataclass(frozen=True)
class Matrix:
    """A rounded matrix as graphs lay it out: integers (in,out), or (experts,in,out), and their scales.

    int4 has two integers in a byte, the first in the low half. ``scales``: (in/block,out) for int4;
    (out,) or (experts,out) for int8, but (in/block,out) for the head, which is rounded on CPUs only.
    """

    kind: str
    values: AnyArray
    scales: npt.NDArray[np.float32]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class RoundedWeights:
    """What ``quantised.json`` says. ``precision``: the one it was made for; others read the checkpoint."""

    folder: Path
    precision: str
    checkpoint: Path
    checkpoint_hash: str
    facts: Mapping[str, Any]
    matrices: Mapping[str, Mapping[str, Any]]
    folded: Mapping[str, str]  # a tensor that takes a scale from a matrix, and the file it is in

    @property
    def files(self) -> tuple[Path, ...]:
        names = {str(entry["file"]) for entry in self.matrices.values()} | set(self.folded.values())
        return tuple(self.folder / name for name in sorted(names))

    def kind(self, name: str) -> str | None:
        """ "int4" or "int8", or None for a matrix that is not here."""
        entry = self.matrices.get(name)
        return None if entry is None else str(entry["kind"])

    def matrix(self, name: str) -> Matrix:
        entry = self.matrices[name]
        kind, shape = str(entry["kind"]), tuple(int(n) for n in entry["shape"])
        values, scales = (self._tensor(str(entry["file"]), name + part) for part in (VALUES, SCALES))
        count = int(np.prod(shape))
        if values.nbytes != (-(-count // 2) if kind == "int4" else count):
            wrong = f"{name} has {values.nbytes} bytes, not those of {shape} in {kind}"
            raise CheckpointError(f"{self.folder}: {wrong}; quantise anew.")
        return Matrix(kind, values, scales, shape)

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """One of ``folded``."""
        return np.asarray(self._tensor(self.folded[name], name + FOLDED), np.float32)

    def _tensor(self, file: str, name: str) -> AnyArray:
        from safetensors import SafetensorError, safe_open

        path = self.folder / file
        try:
            with safe_open(path, framework="numpy") as tensors:
                return np.asarray(tensors.get_tensor(name))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is missing or damaged ({error}); quantise anew.") from error


def read_rounded(folder: Path) -> RoundedWeights | None:
    """None for a plain checkpoint. Raises: CheckpointError for a broken ``quantised.json``."""
    path = folder / QUANTISED
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
        rounded = RoundedWeights(
            folder, str(content["precision"]), Path(content["checkpoint"]), str(content["checkpoint_hash"]),
            content["facts"], content["matrices"], content["folded"],
        )  # fmt: skip
        if any(entry["kind"] not in ("int4", "int8") for entry in rounded.matrices.values()):
            raise ValueError("a matrix is neither int4 nor int8")
        if any(Path(name).name != name for name in _file_names(rounded)):
            raise ValueError("a file is named with a folder")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); quantise anew.") from error
    return rounded


def _file_names(rounded: RoundedWeights) -> list[str]:
    return [str(entry["file"]) for entry in rounded.matrices.values()] + list(rounded.folded.values())
