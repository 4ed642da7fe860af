from __future__ import annotations

import numpy as np
import pytest

from molmo_ros.datatypes import Array
from molmo_ros.perception.cluster import clusters

RED, BLUE = np.array([30.0, 190, 170]), np.array([30.0, 140, 70])
EPS, NEAR = 0.008, 0.0035


def sheet(slope: float, sign: int, noise: float = 0.0005, reach: float = 0.03) -> Array:
    """Return points of half a roof seen from above, at the origin's side x * sign > 0, 0.5 m away.

    It falls away from its edge with `slope`, or rises with a negative one.
    """
    x, y = (g.ravel() for g in np.meshgrid(np.arange(0.0017, reach, NEAR), np.arange(-reach, reach, NEAR)))
    points = np.column_stack([sign * x, y, 0.5 + slope * x])
    return points + np.random.default_rng(2 + sign).normal(0, noise, points.shape)


def labels_of(left: Array, right: Array, height: float = 0.1, one_colour: bool = False) -> Array:
    points = np.concatenate([left, right])
    colour = np.repeat([RED, RED if one_colour else BLUE], [len(left), len(right)], axis=0)
    return clusters(points, colour, np.full(len(points), height), EPS, NEAR, 3)


@pytest.mark.parametrize(("slope", "noise"), [(-0.8, 0.0001), (-0.8, 0.001), (-0.3, 0.001), (-0.3, 0.0015)])
def test_what_meets_in_a_valley_and_differs_in_colour_is_parted(slope: float, noise: float) -> None:
    """With noise some pairs of points look flush; the border as a whole does not."""
    left, right = sheet(slope, -1, noise), sheet(slope, 1, noise)
    labels = labels_of(left, right)
    assert set(labels[: len(left)]) == {labels[0]}
    assert set(labels[len(left) :]) == {labels[-1]}
    assert labels[0] != labels[-1]


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.5])
def test_a_label_that_is_flush_or_a_lid_that_stands_out_is_part_of_it(slope: float) -> None:
    assert set(labels_of(sheet(slope, -1), sheet(slope, 1))) == {0}


def test_what_meets_at_a_spot_is_parted_though_it_looks_flush_there() -> None:
    """The rim of a bowl before a bottle: three points of one are near two of the other."""
    left, right = sheet(0.0, -1), sheet(0.0, 1)
    right = right[(np.abs(right[:, 1]) < 0.004) | (right[:, 0] > 0.012)]
    assert len(set(labels_of(left, right))) == 2


def test_one_colour_is_not_parted_at_a_valley() -> None:
    assert set(labels_of(sheet(-0.8, -1), sheet(-0.8, 1), one_colour=True)) == {0}


def test_what_is_low_is_not_parted_at_a_shallow_valley() -> None:
    """A spoon's bowl and handle: of what lies, the table hides too much for its normals to be trusted."""
    left, right = sheet(-0.3, -1), sheet(-0.3, 1)
    assert set(labels_of(left, right, height=0.012)) == {0}
    assert len(set(labels_of(left, right, height=0.03))) == 2


def test_a_gap_parts_and_what_is_alone_is_noise() -> None:
    left, right = sheet(0.0, -1), sheet(0.0, 1) + np.array([0.01, 0.0, 0.0])
    labels = labels_of(left, np.concatenate([right, [[0.3, 0, 0.5]]]), one_colour=True)
    assert labels[-1] == -1
    assert len(set(labels[:-1])) == 2
    assert -1 not in labels[:-1]
