"""The scores themselves, on numbers that can be checked by hand; and a short run of the real thing."""

from __future__ import annotations

import numpy as np
import pytest

from molmo_ros.datatypes import ImagePoint
from molmo_ros.sim import SimCamera, SimTruth
from molmo_ros.tools.evaluate import calibration_error, evaluate_tiny, f1, missing


def _truth() -> SimTruth:
    ids = np.zeros((10, 30), np.uint8)
    ids[:, 0:10], ids[:, 20:30] = 1, 2
    return SimTruth((), ids, np.ones((10, 30), np.float32), np.eye(4))


def _points(*columns: float) -> tuple[ImagePoint, ...]:
    return tuple(ImagePoint(x, 5.0, "thing") for x in columns)


def test_f1_matches_points_and_masks_one_to_one() -> None:
    assert f1(_points(5, 25), [1, 2], _truth()) == 1
    assert f1(_points(5, 6), [1, 2], _truth()) == pytest.approx(
        2 * 1 / 4
    )  # two points in one mask count once
    assert f1(_points(5), [1, 2], _truth()) == pytest.approx(2 / 3)
    assert f1(_points(15), [1], _truth()) == 0
    assert f1((), [1], _truth()) == 0 and f1((), [], _truth()) == 1


def test_calibration_error() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    assert calibration_error(confidence, np.array([1, 1, 1, 0])) == pytest.approx(0.05)
    assert calibration_error(confidence, np.array([0, 0, 1, 0])) == pytest.approx(0.5 * 0.95 + 0.5 * 0.05)


def test_what_is_asked_for_as_absent_is_absent() -> None:
    rng = np.random.default_rng(0)
    truth = SimCamera(1, 96, 72, threads=1).truth
    names = {o.name for o in truth.objects} | {o.kind for o in truth.objects}
    assert not names & {missing(truth, rng) for _ in range(100)}


@pytest.mark.slow
def test_the_built_in_model_sees() -> None:
    """Far below what it reaches on 500 scenes (docs/tiny.md), far above what a blind model could."""
    seen: list[int] = []
    scores = evaluate_tiny(16, seed=3, progress=lambda done, _total: seen.append(done))
    assert seen == list(range(1, 17))
    assert scores["in_mask"] >= 0.7
    assert scores["absent"] >= 0.7
    assert scores["count"] >= 0.5
    assert scores["position_error_mm_median"] <= 5
