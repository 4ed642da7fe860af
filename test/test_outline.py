from __future__ import annotations

import numpy as np
import pytest

from molmo_ros.perception.outline import in_hull, rectangle_angle


@pytest.mark.parametrize("yaw", [0.0, 0.3, 1.2])
def test_rectangle_lies_along_the_points(yaw: float) -> None:
    x, y = np.meshgrid(np.linspace(-0.05, 0.05, 20), np.linspace(-0.02, 0.02, 9))
    grid = np.column_stack([x.ravel(), y.ravel()])
    c, s = np.cos(yaw), np.sin(yaw)
    angle = rectangle_angle(grid @ np.array([[c, s], [-s, c]]))
    assert (angle - yaw + 1e-9) % (np.pi / 2) == pytest.approx(0, abs=1e-6)


def test_points_on_a_line_have_a_direction() -> None:
    t = np.linspace(0, 1, 10)
    assert rectangle_angle(np.column_stack([t, t])) % np.pi == pytest.approx(np.pi / 4)


def test_a_hull_has_a_margin() -> None:
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]])
    asked = np.array([[0.5, 0.2], [1.05, 0.5], [1.2, 0.5], [-0.05, -0.05]])
    assert in_hull(asked, square, 0.1).tolist() == [True, True, False, True]
    assert in_hull(asked, square, 0.0).tolist() == [True, False, False, False]


@pytest.mark.parametrize("of", [[[0.5, 0.5]], [[0.0, 0.0], [1.0, 1.0]], [[0.2, 0.2]] * 5])
def test_nothing_is_in_the_hull_of_a_line(of: list[list[float]]) -> None:
    asked = np.array([[0.5, 0.5], [7.0, 7.0]])
    assert not in_hull(asked, np.array(of), 0.1).any()
