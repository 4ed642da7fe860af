"""The user's own pictures and queries as calibration data: a folder of images, or a recording."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from molmo_ros.checkpoint.query import counting_prompt, parse_query
from molmo_ros.datatypes import Image
from molmo_ros.errors import FrameError
from molmo_ros.quantise.samples import Question

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def prompts(queries: list[str]) -> list[str]:
    """To point at each thing, and to count it. Raises: QueryError."""
    parsed = [parse_query(query) for query in queries]
    return [prompt for query in parsed for prompt in (query.prompt, counting_prompt(query))]


def from_folder(folder: Path, queries: list[str], count: int) -> Iterator[Question]:
    """``count`` questions, cycling over all pictures of the folder. Raises: FrameError if it holds none."""
    from molmo_ros.io import read_color

    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in PICTURES) if folder.is_dir() else []
    if not paths:
        raise FrameError(f"{folder} holds no picture ({', '.join(PICTURES)}); give a folder with some.")
    asked = prompts(queries)
    for i in range(count):
        turn, at = divmod(i, len(paths))
        yield read_color(paths[at]), _asked(asked, turn, at)


def from_bag(path: Path, queries: list[str], count: int, topic: str = "") -> Iterator[Question]:
    """``count`` questions on frames spread over the recording. Raises: FrameError."""
    from molmo_ros.recording.bag import open_bag

    asked = prompts(queries)
    with open_bag(path) as bag:
        colors = [name for name, kind in bag.image_topics().items() if kind == "color"]
        if topic not in colors and (topic or len(colors) != 1):
            listed = ", ".join(colors) or "none"
            raise FrameError(f'{path}: "{topic}" is not one of its colour images ({listed}); give --image.')
        topic = topic or colors[0]
        frames = sum(1 for _ in bag.messages([topic]))
        if not frames:
            raise FrameError(f'{path}: "{topic}" holds no frame; give a recording with some.')
        wanted = np.linspace(0, frames - 1, min(count, frames)).round().astype(int).tolist()
        done = 0
        while done < count:  # a short recording is asked about more than once
            for i, (_, message) in enumerate(bag.messages([topic])):
                if i in wanted and done < count:
                    yield _decoded(message), _asked(asked, *divmod(done, len(wanted)))
                    done += 1


def _asked(asked: list[str], turn: int, picture: int) -> str:
    """The next question in each turn over the pictures, so that each picture meets all questions."""
    return asked[(turn + picture) % len(asked)]


def _decoded(message: object) -> Image:
    from molmo_ros.camera.compressed import decode_compressed_color
    from molmo_ros.camera.conversions import decode_color

    return decode_compressed_color(message) if hasattr(message, "format") else decode_color(message)
