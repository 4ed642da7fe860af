from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from molmo_ros.datatypes import Array
from molmo_ros.perception.cloud import Horizon, normals, voxel_down, voxel_index, voxel_means

clouds = arrays(np.float64, st.tuples(st.integers(1, 60), st.just(3)), elements=st.floats(-1, 1))


def test_points_of_one_voxel_are_averaged() -> None:
    points = np.array([[0.0, 0, 0], [0.002, 0, 0], [0.1, 0, 0]])
    means, size = voxel_down(points, 0.01)
    assert means[np.argsort(means[:, 0])] == pytest.approx(np.array([[0.001, 0, 0], [0.1, 0, 0]]))
    assert size == 0.01


@given(clouds, st.floats(0.05, 0.5))
def test_points_of_a_voxel_are_close_and_the_mean_of_all_stays(points: Array, size: float) -> None:
    index, count = voxel_index(points, size)
    assert set(index) == set(range(count))
    means = voxel_means(points, index, count)
    assert np.all(np.abs(points - means[index]) <= size + 1e-9)
    weights = np.bincount(index)[:, None]
    assert (means * weights).sum(axis=0) == pytest.approx(points.sum(axis=0), abs=1e-9)


@given(clouds, st.integers(1, 20))
def test_at_most_so_many(points: Array, most: int) -> None:
    means, size = voxel_down(points, 0.01, at_most=most)
    assert 1 <= len(means) <= most
    assert size >= 0.01


def test_nothing_stays_nothing() -> None:
    assert voxel_down(np.zeros((0, 3)), 0.01)[0].shape == (0, 3)


def test_normals_of_a_ball_look_outwards() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions[directions[:, 2] < -0.3]  # the side towards the eye
    points = np.array([0, 0, 0.5]) + 0.04 * directions
    n = normals(points, points, 0.008)
    assert np.linalg.norm(n, axis=1) == pytest.approx(np.ones(len(n)))
    cosine = np.sum(n * directions, axis=1)
    assert np.mean(cosine > np.cos(np.radians(12))) > 0.97


def test_a_lonely_point_looks_at_the_eye() -> None:
    points = np.array([[0.0, 0, 0.5], [0.3, 0, 0.4]])
    n = normals(points, points, 0.01)
    assert n == pytest.approx(np.array([[0, 0, -1], [-0.6, 0, -0.8]]))


def test_horizon_knows_what_is_behind_and_what_is_beside() -> None:
    x, y = np.meshgrid(np.arange(-0.05, 0.05, 0.002), np.arange(-0.05, 0.05, 0.002))
    square = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, 0.5)])
    horizon = Horizon.of(square, 0.002)
    asked = np.array([[0, 0, 0.9], [0.02, 0.01, 0.3], [0.2, 0, 0.5], [0, 0, -1.0]])
    seen = horizon.depth_towards(asked)
    assert seen[:2] == pytest.approx([0.5, 0.5])
    assert np.isinf(seen[2])
    # a nearer thing hides a farther one
    both = Horizon.of(np.concatenate([square, square * 0.6]), 0.002)
    assert both.depth_towards(np.array([0.0, 0, 0.9])) == pytest.approx(0.3)
