"""Points in an answer as the official evaluation of Molmo2 reads them.

It does not know which model wrote the answer, so it tries one format after the other and takes the first that
gives a point. Its pixels are measured from the outer corner of the image (x = v / 1000 * width), half a pixel
more than ours, and what lies on the far border is not moved inside. To get its numbers, both must be the same
here. The node never reads answers this way: ``answer_format`` has one strict parser per generation.

Source of the rules: allenai/molmo2, ``olmo/preprocessing/point_formatter.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from molmo_ros.datatypes import Answer, Array

_COORDS = re.compile(r'<(?:points|tracks).*? coords="([0-9\t:;, .]+)"/?>')
_GROUP = re.compile(r"(?:^|[\t:,;])[0-9.]+ ([0-9. ]+)")
_TRIPLE = re.compile(r"[0-9]+ ([0-9]{3,4}) ([0-9]{3,4})")
# Older formats, with the value that stands for the whole width. The first of these with a point is taken ...
_FIRST_OF = (
    (re.compile(r"Click\(([0-9]+\.[0-9]), ?([0-9]+\.[0-9])\)"), 100.0),
    (re.compile(r"[0-9]+ ([0-9]{3}) ([0-9]{3})"), 1000.0),
    (re.compile(r"[0-9]+ ([0-9]+\.[0-9]) ([0-9]+\.[0-9])"), 100.0),
)
# ... and if there is none, all points of all of these.
_ALL_OF = (
    (re.compile(r"\(([0-9]+\.[0-9]),? ?([0-9]+\.[0-9])\)"), 100.0),
    (re.compile(r'x\d*="\s*([0-9]+(?:\.[0-9]+)?)"\s+y\d*="\s*([0-9]+(?:\.[0-9]+)?)"'), 100.0),
    (re.compile(r"(?:\d+|p)\s*=\s*([0-9]{3})\s*,\s*([0-9]{3})"), 1000.0),
)


def answer_points(answer: Answer, width: int, height: int) -> Array:
    """The points (N,2) px of an answer, from the outer corner of the image.

    Formats that the official scorer cannot read in text (MolmoPoint's patches, JSON) are taken as the
    model's own parser read them.
    """
    found = text_points(answer.text, width, height)
    if len(found) == 0 and answer.points:
        return np.array([[p.x + 0.5, p.y + 0.5] for p in answer.points])
    return found


def text_points(text: str, width: int, height: int) -> Array:
    """The points (N,2) px of a text, from the outer corner of the image; (0,2) if there are none."""
    size = np.array([width, height], dtype=np.float64)
    found = [np.array(pair) / 1000 * size for pair in _tagged(text)]
    found = [p for p in found if (p <= size).all()]
    if not found:
        found = [np.array(pair) / unit * size for pair, unit in _older(text)]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _tagged(text: str) -> Iterator[tuple[float, float]]:
    """Per mille of every triple "id x y" in the coords of whole tags, of all images and times."""
    for coords in _COORDS.finditer(text):
        for group in _GROUP.finditer(coords[1]):
            for triple in _TRIPLE.finditer(group[1]):
                yield float(triple[1]), float(triple[2])


def _older(text: str) -> list[tuple[tuple[float, float], float]]:
    for pattern, unit in _FIRST_OF:
        if found := list(_pairs(pattern, unit, text)):
            return found
    return [pair for pattern, unit in _ALL_OF for pair in _pairs(pattern, unit, text)]


def _pairs(pattern: re.Pattern[str], unit: float, text: str) -> Iterator[tuple[tuple[float, float], float]]:
    for match in pattern.finditer(text):
        x, y = float(match[1]), float(match[2])
        if max(x, y) <= unit:
            yield (x, y), unit
