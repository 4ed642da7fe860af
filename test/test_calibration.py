"""Calibration: what is fitted on points whose truth is known is what they were made with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from molmo_ros.answer.calibration import FILE, Calibration, log_odds
from molmo_ros.checkpoint.checkpoint import resolve
from molmo_ros.datatypes import ImagePoint
from molmo_ros.errors import CheckpointError
from molmo_ros.tools.calibrate import Judged, fit, report


def test_identity_without_a_file(tmp_path: Path) -> None:
    point = ImagePoint(1, 2, "mug", confidence=0.7)
    assert Calibration.load(tmp_path).apply([point]) == (point,)


def test_saved_and_read(tmp_path: Path) -> None:
    Calibration(2.0, -1.0, 0.5).save(tmp_path)
    calibration = Calibration.load(tmp_path)
    assert calibration == Calibration(2.0, -1.0, 0.5)
    (point,) = calibration.apply([ImagePoint(1, 2, "mug", confidence=0.5, covariance=4 * np.eye(2))])
    assert point.confidence == pytest.approx(1 / (1 + np.exp(1)))  # log-odds 0 become -1
    np.testing.assert_allclose(point.covariance, 2 * np.eye(2))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"slope": "x", "offset": 0, "variance": 1}',
             '{"slope": -1, "offset": 0, "variance": 1}', '{"slope": 1, "offset": NaN, "variance": 1}'],
)  # fmt: skip
def test_broken_file(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(CheckpointError, match="delete it or measure it again"):
        Calibration.load(tmp_path)


def test_confidence_stays_a_probability_in_order() -> None:
    values = [Calibration(1.7, -0.8).confidence(p) for p in np.linspace(0, 1, 21)]
    assert values == sorted(values) and 0 < values[0] < values[-1] < 1


def test_fit_finds_what_made_the_points() -> None:
    """Overconfident by a factor of 2 in log-odds; errors of half the variance that is claimed."""
    rng = np.random.default_rng(0)
    raw = rng.uniform(0.5, 0.999, 4000)
    true = Calibration(0.5, 0.3)
    judged = [
        Judged(float(c), bool(rng.random() < true.confidence(c)), float(rng.chisquare(2) / 2)) for c in raw
    ]
    found = fit(judged)
    assert found.slope == pytest.approx(0.5, abs=0.1) and found.offset == pytest.approx(0.3, abs=0.2)
    assert found.variance == pytest.approx(0.5, abs=0.05)
    after = report(judged, found)
    assert after["ece"] < 0.02 < after["ece_raw"]
    assert after["coverage90"] == pytest.approx(0.9, abs=0.02) and after["coverage90_raw"] > 0.97


def test_few_mistakes_leave_confidence_nearly_as_it_is() -> None:
    found = fit([Judged(0.97, i > 0, 2.0) for i in range(20)])
    assert found.confidence(0.97) == pytest.approx(0.97, abs=0.03)
    assert found.slope == pytest.approx(1, abs=0.4) and log_odds(1.0) < 20


def test_built_in_model_has_a_calibration() -> None:
    folder = resolve("tiny")
    found = json.loads((folder / FILE).read_text())
    assert Calibration.load(folder) == Calibration(**found)
    assert Calibration.load(folder).confidence(0.99) > 0.8
