"""Low things, measured as smeared domes, get upright sides at half their height."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.perception.prism import prism, top_of


def smeared_bar(half_m: float = 0.009, smear_m: float = 0.006, high_m: float = 0.014) -> Array:
    """Points (N,3) m of a bar 12 cm long, whose edges are smeared by a camera over 2 smear_m."""
    x, y = np.meshgrid(np.arange(-0.06, 0.06, 0.0015), np.arange(-0.025, 0.025, 0.0015))
    z = high_m * np.clip(0.5 + (half_m - np.abs(y)) / (2 * smear_m), 0, 1)
    seen = z > 0.002
    return np.stack([x[seen], y[seen], z[seen]], axis=1)


def test_sides_stand_at_half_height_and_look_outwards() -> None:
    points = smeared_bar()
    kept, sides, normals = prism(points, 0.0, 0.0015)
    assert np.abs(points[kept, 1]).max() < 0.011  # what was smeared on the table is gone
    long = np.abs(normals[:, 1]) > 0.9
    assert np.abs(np.abs(sides[long, 1]) - 0.009).max() < 0.0025
    assert np.all(np.sign(normals[long, 1]) == np.sign(sides[long, 1]))
    assert np.all(normals[:, 2] == 0.0)
    assert sides[:, 2].min() < 0.003
    assert abs(sides[:, 2].max() - top_of(points)) < 1e-9


def test_a_turned_bar() -> None:
    c, s = np.cos(0.7), np.sin(0.7)
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    _, sides, normals = prism(smeared_bar() @ R.T, 0.7, 0.0015)
    back, look = sides @ R, normals @ R
    long = np.abs(look[:, 1]) > 0.9
    assert np.count_nonzero(long) > 100
    assert np.abs(np.abs(back[long, 1]) - 0.009).max() < 0.004
