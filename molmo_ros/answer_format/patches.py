"""MolmoPoint's answers: places are tokens that name an image token, one of its patches, and a place in that.

``<points coords="<POINT_210><POINT_726><POINT_733>1<POINT_411><POINT_728><POINT_730>2<POINT_725>">mugs
</point>``

With P image tokens of W patches each, <POINT_k> is image token k for k < P, "no more points" for P,
patch k - P - 1 of the token's window, row by row, below P + 1 + W, and from there on a place of the 3x3 in
the patch, *column* by column. Three of them and a number make a point; pixels as in ``points``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from molmo_ros.answer_format.points import Span, from_unit, tags
from molmo_ros.checkpoint.preprocess import ImageInputs
from molmo_ros.datatypes import ImagePoint

PLACES = 9
_THIRD = 0.33  # of a patch, as the models were trained with
_TRIPLE = re.compile(r"<POINT_([0-9]{1,6})> ?<POINT_([0-9]{1,6})> ?<POINT_([0-9]{1,6})>")

Box = tuple[float, float, float, float]  # left, top, right, bottom; 0..1 of the image


@dataclass(frozen=True)
class PatchPoint:
    """One point as written: the numbers of its three tokens, and where in the text each stands."""

    numbers: tuple[int, int, int]
    spans: tuple[Span, Span, Span]
    label: str = ""
    tag_start: int = 0


@dataclass(frozen=True)
class PatchMap:
    """Where on an image the patches of its tokens lie.

    ``low``: tokens of the low-resolution block, which nothing points at; ``tokens`` and ``patches``: (rows,
    columns) of the high-resolution block; ``window``: patches (high, wide) of a token.
    """

    low: int
    tokens: tuple[int, int]
    patches: tuple[int, int]
    window: tuple[int, int]

    @classmethod
    def of(cls, inputs: ImageInputs, window: tuple[int, int]) -> PatchMap:
        rows, columns = inputs.high_res
        low = len(inputs.pooling) - rows * columns
        there = inputs.pooling[low:].reshape(rows, columns, *window) >= 0
        patches = (int(there[:, 0, :, 0].sum()), int(there[0, :, 0, :].sum()))
        return cls(low, (rows, columns), patches, window)

    @property
    def no_more(self) -> int:
        """The number that says "no more points"; also how many image tokens there are."""
        return self.low + self.tokens[0] * self.tokens[1]

    @property
    def slots(self) -> int:
        return self.window[0] * self.window[1]

    def token_box(self, token: int) -> Box | None:
        """The part of the image that a token shows; None for one that nothing points at."""
        if not self.low <= token < self.no_more:
            return None
        row, column = divmod(token - self.low, self.tokens[1])
        top, left = row * self.window[0], column * self.window[1]
        bottom = min(top + self.window[0], self.patches[0])
        return self._box(left, top, min(left + self.window[1], self.patches[1]), bottom)

    def patch_box(self, token: int, patch: int) -> Box | None:
        """The part that patch <POINT_patch> of a token shows; None if there is no such patch."""
        slot = patch - self.no_more - 1
        if self.token_box(token) is None or not 0 <= slot < self.slots:
            return None
        row, column = divmod(token - self.low, self.tokens[1])
        down, along = divmod(slot, self.window[1])
        top, left = row * self.window[0] + down, column * self.window[1] + along
        if top >= self.patches[0] or left >= self.patches[1]:
            return None
        return self._box(left, top, left + 1, top + 1)

    def place(self, token: int, patch: int, place: int) -> tuple[float, float] | None:
        """The point, 0..1 of width and height, that three numbers name; None if they name none."""
        box, third = self.patch_box(token, patch), place - self.no_more - 1 - self.slots
        if box is None or not 0 <= third < PLACES:
            return None
        x, y = ((n + 0.5) * _THIRD for n in divmod(third, 3))
        return box[0] + x / self.patches[1], box[1] + y / self.patches[0]

    def _box(self, left: int, top: int, right: int, bottom: int) -> Box:
        rows, columns = self.patches
        return left / columns, top / rows, right / columns, bottom / rows


def point_token(number: int) -> str:
    return f"<POINT_{number}>"


def scan_molmopoint(text: str) -> tuple[PatchPoint, ...]:
    """Every three tokens in a row, wherever they stand in an answer; whether they name a place is not
    checked.

    The number after them is not needed: an answer may end before it.
    """
    around = list(tags(text))
    return tuple(_points(text, [(t.start, t.label) for t in around]))


def _points(text: str, labels: list[tuple[int, str]]) -> Iterator[PatchPoint]:
    for match in _TRIPLE.finditer(text):
        start, label = max((t for t in labels if t[0] < match.start()), default=(0, ""))
        numbers = tuple(int(match[i]) for i in (1, 2, 3))
        spans = tuple((match.start(i) - len("<POINT_"), match.end(i) + 1) for i in (1, 2, 3))
        yield PatchPoint(numbers, spans, label, start)  # type: ignore[arg-type]


def select_molmopoint(text: str, places: PatchMap) -> tuple[PatchPoint, ...]:
    """Those of the points of ``text`` that name a place."""
    return tuple(p for p in scan_molmopoint(text) if places.place(*p.numbers) is not None)


def parse_molmopoint(text: str, places: PatchMap, width: int, height: int) -> tuple[ImagePoint, ...]:
    """Points of an answer about an image of width x height px, in text order. Never raises."""
    found = []
    for i, point in enumerate(select_molmopoint(text, places), start=1):
        x, y = places.place(*point.numbers) or (np.nan, np.nan)
        found.append(ImagePoint(from_unit(x, width, 1), from_unit(y, height, 1), point.label, instance=i))
    return tuple(found)
