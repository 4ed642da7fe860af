"""Each limit alone stops a target that all others let through."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from molmo_ros.datatypes import Grasp, GraspTarget, ImagePoint, Pose, TargetStatus
from molmo_ros.errors import ParameterError
from molmo_ros.limits import Box, Limits, enforce, parse_boxes

DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # 180 degrees about x: the approach points along -z
STRICT = Limits(
    workspace=Box((0.2, -0.4, 0.0), (0.8, 0.4, 0.6)),
    keep_out=(Box((0.2, 0.2, 0.0), (0.4, 0.4, 0.3)),),
    max_sigma_m=0.01,
    max_age_s=1.0,
    min_confidence=0.5,
    min_quality=0.3,
    max_targets=2,
)


def target(**changes: Any) -> GraspTarget:
    """0.5 m in front of the robot, grasped from above, known to 4 mm."""
    at = changes.pop("at", (0.5, 0.0, 0.05))
    place = np.array(at, dtype=float)
    grasp = Grasp(
        Pose(place, DOWN), Pose(np.add(place, [0, 0, 0.1]), DOWN), 0.05, changes.pop("quality", 0.9), 0.07
    )
    point = ImagePoint(320.0, 240.0, "mug", confidence=changes.pop("confidence", 0.9))
    made = GraspTarget(
        point, TargetStatus.OK, "", "base_link", 0, place, np.diag([1e-6, 4e-6, 1.6e-5]), 0.0, grasp=grasp
    )
    return replace(made, **changes)


def test_a_good_target_passes_as_it_is() -> None:
    good = target()
    assert enforce([good], STRICT, age_s=0.2) == (good,)
    assert enforce([good], Limits(), age_s=1e9) == (good,)


@pytest.mark.parametrize(
    ("changes", "limit", "status", "text"),
    [
        ({"at": (0.9, 0.0, 0.05)}, "workspace", "OUT_OF_WORKSPACE", "position"),
        ({"at": (0.5, 0.0, -0.01)}, "workspace", "OUT_OF_WORKSPACE", "position"),
        ({"at": (0.5, 0.0, 0.55)}, "workspace", "OUT_OF_WORKSPACE", "pregrasp"),
        ({"at": (0.3, 0.3, 0.1)}, "keep_out", "KEEP_OUT", "box 0"),
        ({"covariance": np.diag([1e-6, 1e-6, 1.1e-4])}, "max_sigma_m", "UNCERTAIN", "10 mm"),
        ({"covariance": np.full((3, 3), 1e-4)}, "max_sigma_m", "UNCERTAIN", "17 mm"),
        ({"covariance": None}, "max_sigma_m", "UNCERTAIN", "set max_sigma to 0"),
        ({"covariance": np.full((3, 3), math.nan)}, "max_sigma_m", "UNCERTAIN", "not known"),
        ({"confidence": 0.49}, "min_confidence", "UNCERTAIN", "0.49"),
        ({"confidence": math.nan}, "min_confidence", "UNCERTAIN", "not known"),
        ({"quality": 0.2}, "min_quality", "LOW_QUALITY", "0.20"),
        ({"quality": math.nan}, "min_quality", "LOW_QUALITY", "nan"),
    ],
)
def test_each_limit_alone_stops_a_target(changes: dict[str, Any], limit: str, status: str, text: str) -> None:
    (stopped,) = enforce([target(**dict(changes))], STRICT, age_s=0.2)
    assert stopped.status is TargetStatus[status] and text in stopped.status_text
    without = replace(STRICT, **{limit: getattr(Limits(), limit)})
    (passed,) = enforce([target(**dict(changes))], without, age_s=0.2)
    assert passed.status is TargetStatus.OK, "another limit stopped it too"


@pytest.mark.parametrize("limits", [STRICT, replace(STRICT, workspace=None), replace(STRICT, keep_out=())])
@pytest.mark.parametrize("changes", [{"at": (0.5, math.nan, 0.1)}, {"position": None}])
def test_a_place_that_is_not_known_may_be_anywhere(limits: Limits, changes: dict[str, Any]) -> None:
    assert enforce([target(**dict(changes))], limits, age_s=0.0)[0].status is TargetStatus.OUT_OF_WORKSPACE


@pytest.mark.parametrize("age_s", [1.01, 13.3, math.inf, math.nan])
def test_an_old_image_is_stale(age_s: float) -> None:
    (stopped,) = enforce([target()], STRICT, age_s=age_s)
    assert stopped.status is TargetStatus.STALE and "max_target_age_s" in stopped.status_text
    assert enforce([target()], STRICT, age_s=1.0)[0].status is TargetStatus.OK


def test_the_way_from_pregrasp_to_grasp_is_kept_out_of_boxes_too() -> None:
    between = replace(STRICT, keep_out=(Box((0.4, -0.1, 0.09), (0.6, 0.1, 0.11)),))
    assert enforce([target()], between, age_s=0.0)[0].status is TargetStatus.KEEP_OUT
    beside = replace(STRICT, keep_out=(Box((0.4, 0.01, 0.09), (0.6, 0.1, 0.11)),))
    assert enforce([target()], beside, age_s=0.0)[0].status is TargetStatus.OK


def test_more_targets_than_allowed_are_told_but_not_usable() -> None:
    bad = target(at=(0.9, 0.0, 0.05))
    found = enforce([bad, *[target(confidence=0.9 - 0.01 * i) for i in range(4)]], STRICT, age_s=0.0)
    assert [t.status.name for t in found] == ["OUT_OF_WORKSPACE", "OK", "OK", "TOO_MANY", "TOO_MANY"]
    assert [t.point.confidence for t in found[1:3]] == [0.9, 0.89]


def test_without_a_lease_nothing_is_usable() -> None:
    assert enforce([target()], STRICT, age_s=0.0, leased=False)[0].status is TargetStatus.NO_LEASE


def test_what_failed_before_keeps_its_reason() -> None:
    failed = target(
        status=TargetStatus.NO_DEPTH, status_text="why", position=None, covariance=None, grasp=None
    )
    assert enforce([failed], STRICT, age_s=99.0) == (failed,)


def test_a_position_without_a_grasp_is_limited_as_well() -> None:
    assert enforce([target(grasp=None)], STRICT, age_s=0.0)[0].status is TargetStatus.OK
    assert enforce([target(grasp=None, position=np.array([2.0, 0, 0]))], STRICT, age_s=0.0)[0].status is (
        TargetStatus.OUT_OF_WORKSPACE
    )


def test_boxes_may_be_in_another_frame() -> None:
    """The table's frame lies 1 m in front of the robot, turned by 90 degrees about z."""
    T = np.array([[0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    table = Limits(frame="table", workspace=Box((-0.1, 0.4, 0.0), (0.1, 0.6, 1.0)))
    assert enforce([target()], table, age_s=0.0, T_limits_target=T)[0].status is TargetStatus.OK
    (out,) = enforce([target(at=(0.7, 0.0, 0.05))], table, age_s=0.0, T_limits_target=T)
    assert out.status is TargetStatus.OUT_OF_WORKSPACE
    assert "(0.000, 0.300, 0.050) in 'table'" in out.status_text


@pytest.mark.parametrize(
    "text", ["1 2 3", "0 0 0 0 0 0", "0 0 0 1 1 -1", "0 0 0 1 1 nan", "0 0 0 1 1 inf", "a b c d e f"]
)
def test_boxes_that_are_none(text: str) -> None:
    with pytest.raises(ParameterError, match="workspace"):
        parse_boxes([text], "workspace")


def test_boxes_from_text() -> None:
    assert parse_boxes(["0 0 0 1 1 1", "", "-1, -2, -3, 1, 2, 3"], "keep_out") == (
        Box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), Box((-1.0, -2.0, -3.0), (1.0, 2.0, 3.0))
    )  # fmt: skip


def six(low: float, high: float) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(low, high), min_size=6, max_size=6)


@settings(max_examples=200, deadline=None)
@example([0.10000000000000002, 0.0, 0.0, 0.1, 0.0, 0.0], [1.0, 1.0, 1.0, 0.1, 1.0, 1.0])  # all but a point
@given(
    st.lists(st.floats(-2, 2), min_size=6, max_size=6), st.lists(st.floats(0.1, 1), min_size=6, max_size=6)
)
def test_a_line_meets_a_box_if_one_of_its_points_lies_in_it(ends: list[float], size: list[float]) -> None:
    box = Box((-size[0], -size[1], -size[2]), (size[3], size[4], size[5]))
    start, end = np.array(ends[:3]), np.array(ends[3:])
    steps = np.linspace(0, 1, 200)[:, None]
    points = start + steps * (end - start)
    if any(box.contains(point[None]) for point in points):
        assert box.meets(start, end)
    grown = Box(tuple(v - 0.03 for v in box.low), tuple(v + 0.03 for v in box.high))  # type: ignore[arg-type]
    if box.meets(start, end):
        assert any(grown.contains(point[None]) for point in points)
