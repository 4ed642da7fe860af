"""Whatever a depth image holds, the way from pixel to grasp ends in values or in one of our errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molmo_ros.datatypes import Depth, ImagePoint, RgbdFrame
from molmo_ros.errors import MolmoRosError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.planner import plan_grasps
from molmo_ros.perception.box import oriented_box
from molmo_ros.perception.complete import complete_shape
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.segment import segment_object

K = np.array([[110.0, 0, 52.0], [0, 110.0, 39.0], [0, 0, 1]])
V, U = np.mgrid[:78, :104]


def noise(rng: np.random.Generator) -> Depth:
    return rng.uniform(0, 5, U.shape)


def wall(rng: np.random.Generator) -> Depth:
    return np.full(U.shape, rng.uniform(0.2, 3))


def floor(rng: np.random.Generator) -> Depth:
    return 0.5 / np.maximum((V - 39) / 110 + rng.uniform(0.3, 0.9), 0.05)


def steps(rng: np.random.Generator) -> Depth:
    return 0.4 + 0.05 * ((U + V) // rng.integers(3, 12) % 7)


def needles(rng: np.random.Generator) -> Depth:
    return np.where(rng.random(U.shape) < 0.2, 0.5, floor(rng))


def blob(rng: np.random.Generator) -> Depth:
    near = rng.integers(1, 30) ** 2 > (U - 52) ** 2 + (V - 39) ** 2
    return np.where(near, floor(rng) - rng.uniform(0, 0.1), floor(rng))


@pytest.mark.parametrize("kind", [noise, wall, floor, steps, needles, blob])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    lost=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    junk=st.sampled_from([np.nan, 0.0, np.inf, -1.0]),
    x=st.floats(-0.5, 103.5),
    y=st.floats(-0.5, 77.5),
    up=st.sampled_from([None, (0.0, -1.0, 0.0), (0.0, -0.7, -0.714)]),
)
def test_values_or_an_error_with_a_fix(
    kind: object, seed: int, lost: float, junk: float, x: float, y: float, up: tuple[float, ...] | None
) -> None:
    rng = np.random.default_rng(seed)
    depth = kind(rng).astype(np.float32)  # type: ignore[operator]
    depth[rng.random(depth.shape) < lost] = junk
    frame = RgbdFrame(np.zeros((*depth.shape, 3), np.uint8), depth, K)
    point = ImagePoint(x, y, "it")
    upwards = None if up is None else np.array(up)
    try:
        lifted = lift_point(frame, point)
        assert np.isfinite(lifted.position).all()
        assert np.linalg.eigvalsh(lifted.covariance)[0] > 0
        segment = segment_object(frame, point, lifted, upwards)
        assert segment.mask.any()
        views = complete_shape(segment, upwards)
        box = oriented_box(segment, upwards, views)
        assert np.isfinite(box.pose.position).all()
        assert (box.size > 0).all()
        for grasp in plan_grasps(segment, lifted, Gripper.load("franka_hand"), upwards, 3, views):
            assert np.isfinite(grasp.pose.position).all()
            assert 0 < grasp.width <= grasp.opening <= 0.08 + 1e-9
    except MolmoRosError as error:
        assert ";" in str(error)  # fact and measurement; fix
