"""The protocols' arithmetic gives the numbers of the official scorers (see test/golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmo_ros.datatypes import Answer, ImagePoint, Mask
from molmo_ros.tools.points_eval.reading import answer_points, text_points
from molmo_ros.tools.points_eval.scores import (
    Score,
    Truth,
    group_means,
    judge_bench,
    judge_count,
    judge_explanation,
    judge_points,
    means,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "points_eval.json").read_text(encoding="utf-8"))
SIZE = WIDTH, HEIGHT = GOLDEN["width"], GOLDEN["height"]
CASES = GOLDEN["cases"]


def _mask(rectangle: list[int]) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    x0, y0, x1, y1 = rectangle
    mask[y0:y1, x0:x1] = True
    return mask


def _truth(case: dict[str, Any], *, union: bool = False) -> Truth:
    masks = tuple(_mask(r) for r in case["rects"])
    if union:
        masks = (np.any(masks, axis=0) if masks else np.zeros((HEIGHT, WIDTH), dtype=bool),)
    return Truth(np.array(case["points"]).reshape(-1, 2), masks, case["count"], case["category"])


def _score(case: dict[str, Any], judge: Any, *, union: bool = False) -> Score:
    found = text_points(case["text"], WIDTH, HEIGHT)
    score: Score = judge(_truth(case, union=union), found, case["text"], SIZE)
    return score


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"][:40])
def test_one_answer_is_read_and_scored_as_by_the_official_scorers(case: dict[str, Any]) -> None:
    found = text_points(case["text"], WIDTH, HEIGHT)
    np.testing.assert_allclose(found, np.array(case["extracted"]).reshape(-1, 2), atol=1e-9)
    assert _score(case, judge_points).numbers == pytest.approx(case["pointing"], abs=1e-12)
    assert _score(case, judge_bench, union=True).numbers == {"correct": case["bench"]}
    counted = _score(case, judge_count).numbers
    assert (counted["correct"], counted["close"]) == (case["counting"]["correct"], case["counting"]["close"])
    stated = case["stated"]
    assert (counted["stated_correct"], counted["stated_close"]) == (stated["correct"], stated["close"])
    assert counted["stated_valid"] == stated["valid"]


def test_the_means_over_all_answers_are_those_of_the_official_scorers() -> None:
    def rows(judge: Any, group: str, *, union: bool = False) -> list[dict[str, Any]]:
        return [{"scores": _score(c, judge, union=union).numbers, "group": str(c[group])} for c in CASES]

    total = GOLDEN["total"]
    assert means(rows(judge_points, "category")) == pytest.approx(total["pointing"], abs=1e-12)
    assert group_means(rows(judge_bench, "category", union=True), "correct") == pytest.approx(total["bench"])
    counted = rows(judge_count, "count")
    by_count = group_means(counted, "correct")
    assert by_count.pop("average") == pytest.approx(total["counting"]["per_category_average"])
    assert {f"correct_{n}": v for n, v in by_count.items()} == pytest.approx(
        {n: v for n, v in total["counting"].items() if n.startswith("correct_")}
    )
    assert means(counted)["stated_correct"] == pytest.approx(total["stated"]["correct"])
    assert means(counted)["stated_valid"] == pytest.approx(total["stated"]["valid"])


def test_a_format_that_the_official_scorer_cannot_read_counts_as_the_models_parser_read_it() -> None:
    answer = Answer("<points coords=<POINT_3>...>", (ImagePoint(9.5, 19.5, "mug"),))
    np.testing.assert_allclose(answer_points(answer, WIDTH, HEIGHT), [[10.0, 20.0]])


def test_explanations_count_points_near_the_reference_one_to_one() -> None:
    truth = Truth(points=np.array([[10.0, 10.0], [50.0, 40.0]]))
    found = np.array([[11.0, 11.0], [11.5, 10.0], [54.5, 40.0]])  # the third is 4.5 px away, the radius 4 px
    score = judge_explanation(truth, found, "", SIZE)
    assert score.numbers == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 0.4})
    assert sum(score.right) == 1 and not score.right[2]
    nothing = judge_explanation(Truth(), np.zeros((0, 2)), "It is a kitchen.", SIZE)
    assert nothing.numbers["f1"] == 1.0
