"""Rows of a published data set: Parquet files, or the Arrow folders that ``datasets.save_to_disk`` writes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from molmo_ros.datatypes import Image, Mask
from molmo_ros.errors import FrameError
from molmo_ros.io import read_color

BATCH = 8  # rows in memory at a time; the masks of one may take megabytes
IMAGE_FOLDERS = ("images", "pixmo_images")


@dataclass(frozen=True)
class Table:
    """The files of a split, in the order of their names."""

    folder: Path
    files: tuple[Path, ...]

    @classmethod
    def find(cls, folder: Path, split: str, needs: tuple[str, ...]) -> Table:
        """The files below a folder that belong to a split, or all if there is no split or none is named so.

        Raises: FrameError if there are none, or they lack one of the columns ``needs``.
        """
        found = sorted(p for ending in ("parquet", "arrow") for p in folder.rglob(f"*.{ending}"))
        named = [p for p in found if p.name.startswith(f"{split}-") or p.parent.name == split]
        splits = {p.name.split("-")[0] for p in found} | {p.parent.name for p in found}
        if split and not named and splits & {"train", "validation", "test"}:
            raise FrameError(f"{folder} has no files of the split {split!r}; --split names another.")
        table = cls(folder, tuple(named or found))
        if not table.files:
            raise FrameError(
                f"There is no *.parquet or *.arrow file in {folder}; give that of a published data set."
            )
        missing = sorted(set(needs) - set(table.columns()))
        if missing:
            raise FrameError(
                f"{table.files[0]} has no column {', '.join(missing)}; it has {', '.join(table.columns())}: "
                "give another --data, or the --protocol that belongs to it."
            )
        return table

    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(_schema(self.files[0]).names)

    def __len__(self) -> int:
        return sum(_length(path) for path in self.files)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row as name -> Arrow scalar; ``plain`` and ``masks`` convert them."""
        for path in self.files:
            for batch in _batches(path):
                for i in range(batch.num_rows):
                    yield {name: batch.column(name)[i] for name in batch.schema.names}


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def _schema(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return (
            pq.read_schema(path) if _is_parquet(path) else pa.ipc.open_stream(pa.memory_map(str(path))).schema
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise FrameError(f"Cannot read {path}: {error}; download it again.") from error


def _length(path: Path) -> int:
    import pyarrow.parquet as pq

    if _is_parquet(path):
        return int(pq.read_metadata(path).num_rows)
    return sum(batch.num_rows for batch in _batches(path))


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if _is_parquet(path):
        yield from pq.ParquetFile(path).iter_batches(batch_size=BATCH)
        return
    with pa.memory_map(str(path)) as source:
        yield from pa.ipc.open_stream(source)


def plain(row: dict[str, Any], name: str) -> Any:
    """A column of a row as Python values; None if it is not there."""
    return row[name].as_py() if name in row else None


def masks(row: dict[str, Any], name: str) -> tuple[Mask, ...]:
    """A column of lists of lists of lists as masks, each (H,W)."""
    stack = row[name].values
    if stack is None or len(stack) == 0:
        return ()
    height = len(stack[0])
    flat = stack.flatten().flatten().to_numpy(zero_copy_only=False) != 0
    try:
        return tuple(flat.reshape(len(stack), height, -1))
    except ValueError:
        raise FrameError("The masks of a row differ in size; download the data set again.") from None


def image(row: dict[str, Any], folder: Path) -> Image:
    """The picture of a row (H,W,3) uint8: bytes or a path in its "image", or the file of its "image_url".

    The file of a URL is named by the SHA-256 of the URL, as the official download names it; what is in it is
    checked against "image_sha256", since a URL may deliver another picture today.
    Raises: FrameError if there is none, or it is a different one.
    """
    given = plain(row, "image")
    if isinstance(given, dict):
        given = given.get("bytes") or given.get("path")
    if isinstance(given, bytes):
        return read_color(BytesIO(given))  # type: ignore[arg-type]  # Pillow reads either
    url = plain(row, "image_url") or ""
    name = Path(given).name if given else hashlib.sha256(url.encode()).hexdigest()
    path = _find(folder, name, url or name)
    wanted = plain(row, "image_sha256")
    if wanted and hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
        raise FrameError(
            f"{path} is not the picture that {url} had when the data set was made; leave it out."
        )
    return read_color(path)


def is_grey(row: dict[str, Any]) -> bool:
    """Whether the picture in a row has one channel; the official CountBench leaves those out."""
    from PIL import Image as PilImage

    given = plain(row, "image")
    data = given.get("bytes") if isinstance(given, dict) else given
    if not isinstance(data, bytes):
        return False
    try:
        with PilImage.open(BytesIO(data)) as picture:
            return len(picture.getbands()) == 1
    except OSError:
        return False


def _find(folder: Path, name: str, url: str) -> Path:
    for place in (folder, *(folder / sub for sub in IMAGE_FOLDERS)):
        for path in (place / name, *sorted(place.glob(name + ".*"))):
            if path.is_file():
                return path
    raise FrameError(
        f"No file {name} (of {url[:120]}) in {folder} or its folder images; download it, or give --images."
    )


def load_mask(path: Path) -> Mask:
    """A mask (H,W) of a picture: set where grey, or one of the colours, is above 127."""
    from PIL import Image as PilImage

    try:
        with PilImage.open(path) as picture:
            pixels = np.array(picture)
    except OSError as error:
        raise FrameError(f"Cannot read the mask {path}: {error}; download it again.") from error
    return np.asarray(pixels > 127 if pixels.ndim == 2 else (pixels > 127).any(axis=2))
