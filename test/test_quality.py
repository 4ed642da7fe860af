"""A grasp's quality: what it is made of, and that its weights can be learned from what held."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from solids import View, can, look

from molmo_ros.datatypes import CameraPoint
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.planner import plan_grasps
from molmo_ros.grasp.quality import EVIDENCE, WEIGHTS, calibrated, evidence
from molmo_ros.tools.grasp_physics.calibrate import fit, left_out

FRANKA = Gripper.load("franka_hand")


@pytest.fixture(scope="module")
def view() -> View:
    return look(can(0, 0, 0.03, 0.1), elevation_deg=50, size=(640, 480), distance=0.7)


def told(view: View, grasp_quality: float = 0.9, kept: float = 1.0, off: float = 0.0) -> dict[str, float]:
    segment, lifted = replace(view.segment(), kept=kept), view.lifted()
    grasp = replace(plan_grasps(segment, lifted, FRANKA, view.up)[0], quality=grasp_quality)
    away = CameraPoint(lifted.position + np.array([off, 0, 0]), lifted.covariance)
    return dict(zip(EVIDENCE, evidence(view.frame, segment, away, grasp, FRANKA), strict=True))


def test_evidence_is_what_it_says(view: View) -> None:
    usual = told(view)
    assert usual["rating"] == pytest.approx(np.log(9))
    assert usual["wide"] == pytest.approx(0.06 / 0.08, abs=0.06)
    assert 0.3 < usual["better_contact"] <= 1 and usual["hidden"] < 0.3
    assert told(view, kept=0.7)["spilt"] == pytest.approx(0.3)
    assert told(view, off=0.2)["far"] > usual["far"] + 0.5
    assert len(WEIGHTS) == len(EVIDENCE)


def test_a_better_rating_is_a_higher_quality(view: View) -> None:
    segment, lifted = view.segment(), view.lifted()
    grasp = plan_grasps(segment, lifted, FRANKA, view.up)[0]
    low, high = (
        calibrated(view.frame, segment, lifted, replace(grasp, quality=q), FRANKA) for q in (0.6, 0.95)
    )
    assert 0 < low < high < 1


def test_weights_are_learned_from_what_held() -> None:
    rng = np.random.default_rng(0)
    X = np.c_[np.ones(2000), rng.normal(2, 1, 2000), rng.random((2000, len(EVIDENCE) - 2))]
    true = np.array([-1.0, 1.2, 2.0, 0.0, -3.0, *[0.0] * (len(EVIDENCE) - 5)])
    held = rng.random(2000) < 1 / (1 + np.exp(-X @ true))
    w = fit(X, held)
    assert w[:5] == pytest.approx(true[:5], abs=0.45)
    quality = left_out(X, held)
    assert quality[held].mean() > quality[~held].mean() + 0.1
    few = fit(X[:4], held[:4])
    assert few[EVIDENCE.index("rating")] == pytest.approx(1.0, abs=0.6)
