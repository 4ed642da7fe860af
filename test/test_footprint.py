from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.perception.footprint import with_stacked, within_reach

CELL = 0.008


def disc(x: float, y: float, outer: float, inner: float = 0.0) -> Array:
    grid = np.stack(np.meshgrid(*[np.arange(-outer, outer, 0.003)] * 2), axis=-1).reshape(-1, 2)
    r = np.hypot(*grid.T)
    return grid[(r <= outer) & (r >= inner)] + [x, y]


def test_what_stands_apart_is_left_out() -> None:
    here = disc(0, 0, 0.03)
    beside = disc(np.ptp(here[:, 0]) + 0.99 * CELL, 0, 0.03)
    far = beside + np.array([np.ptp(here[:, 0]) + 1.6 * CELL, 0])
    for turned in (slice(None), slice(None, None, -1)):  # along x, along y
        flat = np.concatenate([here, beside, far])[:, turned]
        near = within_reach(flat, np.array([0.0, 0.0]), CELL, 0.01)
        assert near[: len(here) + len(beside)].all()
        assert not near[-len(far) :].any()


def test_what_lies_inside_is_looked_at() -> None:
    """The floor of a bowl, seen apart from its rim."""
    rim, floor = disc(0, 0, 0.08, inner=0.07), disc(0, 0, 0.03)
    flat = np.concatenate([rim, floor, disc(0.2, 0, 0.03)])
    near = within_reach(flat, np.array([0.075, 0.0]), CELL, 0.01)
    assert near[: len(rim) + len(floor)].all()
    assert not near[len(rim) + len(floor) :].any()


def test_nothing_within_reach_is_nothing() -> None:
    assert not within_reach(disc(0, 0, 0.03), np.array([0.2, 0.1]), CELL, 0.02).any()
    assert not within_reach(disc(0, 0, 0.03), np.array([-5.0, 9.0]), CELL, 0.02).any()


def test_inside_and_on_top_belong_to_it_but_not_beside() -> None:
    rim, floor = disc(0, 0, 0.06, inner=0.05), disc(0, 0, 0.035)
    cap, beside = disc(0, 0, 0.015), disc(0.1, 0, 0.03)
    flat = np.concatenate([rim, floor, cap, beside])
    labels = np.repeat([0, 1, 2, 3], [len(rim), len(floor), len(cap), len(beside)])
    height = np.array([0.08, 0.01, 0.12, 0.2])[labels]
    assert set(labels[with_stacked(flat, height, labels, labels == 0, CELL)]) == {0, 1, 2}
    assert set(labels[with_stacked(flat, height, labels, labels == 2, CELL)]) == {2}  # not what carries it
