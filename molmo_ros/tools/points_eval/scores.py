"""The arithmetic of each protocol: one answer against its truth, and means over all of them.

Source: the evaluators of allenai/molmo2 (``olmo/eval/evaluators.py``): PointingEval, PointBenchEval,
PointCountEval. Their authors publish no score for point explanations; that one is ours and says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from molmo_ros.datatypes import Array, Mask

FULL = 1 - 1e-6  # the F1 of a perfect answer is a little below 1: see ``f1``
EXPLANATION_RADIUS = 0.05  # of the image's diagonal
_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_TOTAL = re.compile(r".*a total of ([0-9]+)")
_NONE = re.compile(r".*\bnone\b")


@dataclass(frozen=True)
class Truth:
    """What is right for one example.

    points (N,2) px from the outer corner of the image; masks: N, each (H,W), in the same order, or one
    for all (Point-Bench); count, of things; group, by which scores are averaged too: a category or a count.
    """

    points: Array = field(default_factory=lambda: np.zeros((0, 2)))
    masks: tuple[Mask, ...] = ()
    count: int = 0
    group: str = ""


@dataclass(frozen=True)
class Score:
    """The numbers of one answer, by name, and which of its points (N,) were right."""

    numbers: dict[str, float]
    right: tuple[bool, ...] = ()


Judge = Callable[[Truth, Array, str, "tuple[int, int]"], Score]


def judge_points(truth: Truth, found: Array, text: str, size: tuple[int, int]) -> Score:
    """PixMo-Points: precision, recall and F1 of points that lie in the mask of the object assigned to them.

    The assignment is one to one and minimises the sum of distances, whether or not a point is in its mask.
    """
    if len(truth.points) == 0 or len(found) == 0:
        right = float(len(truth.points) == len(found))
        return Score(dict(precision=right, recall=right, f1=right), (False,) * len(found))
    rows, columns = linear_sum_assignment(cdist(found, truth.points))
    hits = np.zeros(len(found), dtype=bool)
    for i, j in zip(rows, columns, strict=True):
        hits[i] = in_mask(np.array([round(v) for v in found[i]]), truth.masks[j])
    precision, recall = hits.sum() / len(found), hits.sum() / len(truth.masks)
    return Score(
        dict(precision=float(precision), recall=float(recall), f1=f1(precision, recall)), tuple(hits.tolist())
    )


def judge_bench(truth: Truth, found: Array, text: str, size: tuple[int, int]) -> Score:
    """Point-Bench: right if there is a point, and all points lie in the mask and in the image."""
    inside = np.array(
        [(p >= 0).all() and (p < size).all() and in_mask(p, truth.masks[0]) for p in found.astype(int)]
    )
    return Score(dict(correct=float(len(found) > 0 and inside.all())), tuple(inside.tolist()))


def judge_count(truth: Truth, found: Array, text: str, size: tuple[int, int]) -> Score:
    """PixMo-Count and CountBench: the number of points, and the one that the text states.

    correct, close (off by at most one): by points, as Molmo2 is scored; stated_*: by the text, as v1 was;
    a text without a number is neither correct nor close, and lowers stated_valid.
    """
    stated = stated_count(text)
    numbers = dict(correct=float(len(found) == truth.count), close=float(abs(len(found) - truth.count) <= 1))
    numbers |= dict(
        stated_correct=float(stated == truth.count),
        stated_close=float(stated is not None and abs(stated - truth.count) <= 1),
        stated_valid=float(stated is not None),
    )
    return Score(numbers)


def judge_explanation(truth: Truth, found: Array, text: str, size: tuple[int, int]) -> Score:
    """Point explanations: precision, recall and F1 of points near those of the reference, one to one.

    Near is within EXPLANATION_RADIUS of the diagonal. Ours: there is no official score.
    """
    if len(truth.points) == 0 or len(found) == 0:
        right = float(len(truth.points) == len(found))
        return Score(dict(precision=right, recall=right, f1=right), (False,) * len(found))
    near = cdist(found, truth.points) <= EXPLANATION_RADIUS * np.hypot(*size)
    rows, columns = linear_sum_assignment(~near)
    hits = np.zeros(len(found), dtype=bool)
    hits[rows] = near[rows, columns]
    precision, recall = hits.sum() / len(found), hits.sum() / len(truth.points)
    return Score(
        dict(precision=float(precision), recall=float(recall), f1=f1(precision, recall)), tuple(hits.tolist())
    )


def in_mask(pixel: Array, mask: Mask) -> bool:
    """Whether an integer pixel (x, y) is inside a mask (H,W) and set there."""
    x, y = int(pixel[0]), int(pixel[1])
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])


def f1(precision: float, recall: float) -> float:
    """The harmonic mean, with the official scorer's 1e-10 in the denominator."""
    if precision == 0 or recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall + 1e-10))


def stated_count(text: str) -> int | None:
    """The number an answer ends with (digits, or a word up to twenty), "a total of N", or 0 for "none"."""
    plain = text.lower().rstrip(".").strip()
    words = plain.split()
    last = words[-1] if words else ""
    if re.fullmatch(r"[+-]?[0-9]+", last.strip(". ")):
        return int(last.strip(". "))
    if last in _WORDS:
        return _WORDS.index(last)
    if total := _TOTAL.match(plain):
        return int(total[1])
    return 0 if _NONE.match(plain) else None


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each number of rows with "scores"; {} without rows."""
    names = list(rows[0]["scores"]) if rows else []
    return {name: float(np.mean([row["scores"][name] for row in rows])) for name in names}


def group_means(rows: Sequence[Mapping[str, Any]], number: str) -> dict[str, float]:
    """The mean of one number for each group of rows, and the mean of those as "average"."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row["scores"][number])
    by_group = {name: float(np.mean(groups[name])) for name in sorted(groups, key=_order)}
    return {**by_group, "average": float(np.mean(list(by_group.values())))} if by_group else {}


def _order(group: str) -> tuple[int, str]:
    return (int(group), "") if group.isdigit() else (0, group)
