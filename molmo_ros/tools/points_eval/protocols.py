"""The protocols: which data set, what the model is asked about each row, and what is right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molmo_ros.checkpoint.query import parse_query
from molmo_ros.datatypes import Array, Image
from molmo_ros.errors import FrameError, ParameterError
from molmo_ros.io import read_color
from molmo_ros.tools.points_eval import scores, tables
from molmo_ros.tools.points_eval.scores import Judge, Truth
from molmo_ros.untrusted import read_json

PIXMO_POINTS, POINT_BENCH = "pixmo-points", "point-bench"
PIXMO_COUNT, COUNTBENCH, EXPLANATIONS = "pixmo-count", "countbench", "point-explanations"


@dataclass(frozen=True)
class Protocol:
    """judge scores one answer; main, the number that decides what is a failure; needs, the data set's
    columns.

    groups: the mean of main is reported for each group too; max_tokens is the limit of the official
    evaluation, which cuts longer answers off; official: there is a published scorer that this one equals.
    """

    judge: Judge
    main: str
    needs: tuple[str, ...] = ()
    split: str = "test"
    groups: bool = False
    max_tokens: int = 192
    template: str = ""
    official: bool = True


PROTOCOLS = {
    PIXMO_POINTS: Protocol(scores.judge_points, "f1", ("label", "points", "masks")),
    POINT_BENCH: Protocol(scores.judge_bench, "correct", groups=True, max_tokens=256, template="{label}"),
    PIXMO_COUNT: Protocol(
        scores.judge_count, "correct", ("label", "count"), groups=True, template="How many {label} are there?"
    ),
    COUNTBENCH: Protocol(scores.judge_count, "correct", split="", groups=True, template="{label}"),
    EXPLANATIONS: Protocol(
        scores.judge_explanation,
        "f1",
        ("question", "points"),
        split="train",
        max_tokens=448,
        template="{label}",
        official=False,
    ),
}


@dataclass(frozen=True)
class Example:
    """One question about one picture; problem says why there is no picture, and rgb (H,W,3) is empty then."""

    key: str
    label: str
    rgb: Image
    truth: Truth
    problem: str = ""


class DataSet:
    """The examples of a folder, in its order."""

    def __init__(
        self, protocol: str, folder: str | Path, images: str | Path | None = None, split: str = ""
    ) -> None:
        """Raises: FrameError, ParameterError: what is missing in which file."""
        if protocol not in PROTOCOLS:
            raise ParameterError(f"There is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}.")
        self.protocol, self.folder = PROTOCOLS[protocol], Path(folder)
        self.name, self.images = protocol, Path(images) if images else self.folder
        if not self.folder.is_dir():
            raise FrameError(f"There is no folder {self.folder}; give that of a data set as published.")
        if protocol == POINT_BENCH:
            self._entries = _bench_entries(self.folder)
            return
        self.table = tables.Table.find(self.folder, split or self.protocol.split, self.protocol.needs)
        self._questions = _countbench_questions(self.folder) if protocol == COUNTBENCH else ()
        if protocol == COUNTBENCH:
            self._check_countbench()

    def __len__(self) -> int:
        return len(self._entries) if self.name == POINT_BENCH else len(self.table)

    def __iter__(self) -> Iterator[Example]:
        if self.name == POINT_BENCH:
            for i, entry in enumerate(self._entries):
                yield _bench(f"{i}", self.folder, entry)
            return
        for i, row in enumerate(self.table.rows()):
            yield from self._of_row(f"{i}", row)

    def prompt(self, label: str, template: str = "") -> str:
        """The question for the model: from the user's template, the protocol's, or the node's own wording."""
        template = template or self.protocol.template
        return template.replace("{label}", label) if template else parse_query(label, max_chars=1024).prompt

    def _of_row(self, key: str, row: dict[str, Any]) -> Iterator[Example]:
        try:
            rgb, problem = tables.image(row, self.images), ""
        except FrameError as error:
            rgb, problem = np.zeros((0, 0, 3), dtype=np.uint8), str(error)
        if self.name == EXPLANATIONS:
            yield from _explanations(key, row, rgb, problem)
        elif self.name == PIXMO_POINTS:
            yield _pixmo_points(key, row, rgb, problem)
        else:
            yield self._counted(key, row, rgb, problem)

    def _counted(self, key: str, row: dict[str, Any], rgb: Image, problem: str) -> Example:
        count = next(int(n) for c in ("count", "number") if (n := tables.plain(row, c)) is not None)
        label = tables.plain(row, "label") if self.name == PIXMO_COUNT else tables.plain(row, "question")
        if self.name == COUNTBENCH and label is None:
            label = self._questions[int(key)]
        if self.name == COUNTBENCH and not problem and tables.is_grey(row):
            problem = "The official evaluation leaves out pictures of one channel."
        return Example(key, str(label), rgb, Truth(count=count, group=str(count)), problem)

    def _check_countbench(self) -> None:
        columns = self.table.columns()
        if not {"count", "number"} & set(columns):
            raise FrameError(
                f"{self.table.files[0]} has no column count or number; give the folder of CountBench."
            )
        if "question" not in columns and len(self._questions) != len(self.table):
            raise FrameError(
                f"{self.folder} has {len(self._questions)} questions for {len(self.table)} pictures; put "
                "countbench_paired_questions.json, of the same order, beside the table."
            )


def _pixmo_points(key: str, row: dict[str, Any], rgb: Image, problem: str) -> Example:
    """Percent of the masks' size, as the official evaluation takes them."""
    masks = tables.masks(row, "masks")
    height, width = masks[0].shape if masks else rgb.shape[:2]
    points = _percent(tables.plain(row, "points"), width, height)
    return Example(key, str(tables.plain(row, "label")), rgb, Truth(points, masks, len(masks)), problem)


def _explanations(key: str, row: dict[str, Any], rgb: Image, problem: str) -> Iterator[Example]:
    """One example for each question about the picture; a row of the official grouped folder has several."""
    questions, points = tables.plain(row, "question"), tables.plain(row, "points")
    grouped = isinstance(questions, list)
    for i, (question, slots) in enumerate(
        zip(questions, points, strict=True) if grouped else [(questions, points)]
    ):
        flat = [p for slot in slots or () for p in slot]
        truth = Truth(_percent(flat, rgb.shape[1], rgb.shape[0]))
        yield Example(f"{key}.{i}" if grouped else key, str(question), rgb, truth, problem)


def _percent(points: Sequence[Mapping[str, float]], width: int, height: int) -> Array:
    shares: Array = np.array([[p["x"], p["y"]] for p in points], dtype=np.float64).reshape(-1, 2)
    scale: Array = np.array([width / 100, height / 100])
    pixels: Array = shares * scale
    return pixels


def _bench_entries(folder: Path) -> list[dict[str, Any]]:
    path = folder / "data.json"
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise FrameError(
            f"Cannot read {path}: {error}; give the folder of Point-Bench with its data.json."
        ) from error
    needs = {"image_filename", "category", "user_input"}
    entries = (
        [e for e in content if isinstance(e, dict) and "mask_filename" in e]
        if isinstance(content, list)
        else []
    )
    if not entries or any(not needs <= e.keys() for e in entries):
        raise FrameError(
            f"{path} is no list of {', '.join(sorted(needs))}, mask_filename; download it again."
        )
    return entries


def _bench(key: str, folder: Path, entry: Mapping[str, Any]) -> Example:
    category, rgb, problem = str(entry["category"]), np.zeros((0, 0, 3), dtype=np.uint8), ""
    mask = np.zeros((0, 0), dtype=bool)
    try:
        mask = tables.load_mask(_inside(folder / "selected_masks", category, entry["mask_filename"]))
        rgb = read_color(_inside(folder / "selected_images", category, entry["image_filename"]))
    except FrameError as error:
        problem = str(error)
    return Example(key, str(entry["user_input"]), rgb, Truth(masks=(mask,), group=category), problem)


def _inside(folder: Path, category: str, name: Any) -> Path:
    """The path of a name that a downloaded file gives: never outside of the folder."""
    path = folder / category / str(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FrameError(
            f"{name!r} of category {category!r} leads out of {folder}; download data.json again."
        )
    return path


def _countbench_questions(folder: Path) -> tuple[str, ...]:
    path = folder / "countbench_paired_questions.json"
    if not path.is_file():
        return ()
    try:
        return tuple(str(entry["question"]) for entry in read_json(path))
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise FrameError(f"Cannot read {path}: {error}; download it again.") from error
