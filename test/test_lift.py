from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2
from solids import look, roll, sphere

from molmo_ros.datatypes import Array, Depth, ImagePoint, RgbdFrame
from molmo_ros.errors import DepthError
from molmo_ros.perception.depth import DepthOptions, DepthReading
from molmo_ros.perception.lift import depth_gradient, lift_point

K = np.array([[600.0, 0, 320.0], [0, 500.0, 240.0], [0, 0, 1]])


def sigma_of(z: float) -> float:
    return float(np.hypot(0.002, z**2 * 0.08 / (600 * 0.05) + 0.0005))


def frame_of(depth: Array) -> RgbdFrame:
    return RgbdFrame(np.zeros((*depth.shape, 3), np.uint8), depth.astype(np.float32), K)


def test_a_pixel_is_deprojected() -> None:
    lifted = lift_point(frame_of(np.full((480, 640), 1.2)), ImagePoint(380.0, 190.0, "it"))
    # x = (380 - 320) / 600 * 1.2, y = (190 - 240) / 500 * 1.2
    assert lifted.position == pytest.approx([0.12, -0.12, 1.2], abs=1e-6)
    assert lifted.ambiguity == 0


def test_covariance_of_a_wall_seen_straight() -> None:
    point = ImagePoint(320.0, 240.0, "it", covariance=np.diag([9.0, 4.0]))
    covariance = lift_point(frame_of(np.full((480, 640), 1.2)), point).covariance
    assert covariance == pytest.approx(
        np.diag([9 * (1.2 / 600) ** 2, 4 * (1.2 / 500) ** 2, sigma_of(1.2) ** 2]), rel=1e-3, abs=1e-12
    )


def test_covariance_on_a_slope_is_that_of_many_draws() -> None:
    n, d = np.array([0.5, -0.3, -0.8]), -0.7  # n.P = d
    v, u = np.mgrid[:480, :640]
    rays = np.stack([(u - 320) / 600, (v - 240) / 500, np.ones(u.shape)], axis=-1)
    point = ImagePoint(300.0, 260.0, "it", covariance=np.array([[4.0, 1.0], [1.0, 2.0]]))
    lifted = lift_point(frame_of(d / (rays @ n)), point)
    rng = np.random.default_rng(0)
    pixels = rng.multivariate_normal([300, 260], point.covariance, 100_000)
    drawn = np.column_stack([(pixels[:, 0] - 320) / 600, (pixels[:, 1] - 240) / 500, np.ones(len(pixels))])
    drawn *= (d / (drawn @ n))[:, None]
    ray = lifted.position / lifted.position[2]
    expected = np.cov(drawn.T) + sigma_of(lifted.position[2]) ** 2 * np.outer(ray, ray)
    assert lifted.covariance == pytest.approx(expected, rel=0.03, abs=2e-8)


def test_two_layers_add_doubt_along_the_ray() -> None:
    depth = np.full((480, 640), 1.0)
    depth[:, 318:323] = 0.7
    lifted = lift_point(frame_of(depth), ImagePoint(320.0, 240.0, "it", covariance=np.eye(2) * 1e-6))
    assert lifted.ambiguity > 0.2
    assert lifted.covariance[2, 2] == pytest.approx(sigma_of(0.7) ** 2 + lifted.ambiguity * 0.3**2, rel=1e-3)


def test_a_hole_on_a_slope_adds_doubt() -> None:
    """30 % of what the surface falls or rises from the point to the rim of the hole."""
    n, d = np.array([0.3, 0.0, -0.95]), -0.8  # n.P = d
    v, u = np.mgrid[:480, :640]
    depth = d / (np.stack([(u - 320) / 600, (v - 240) / 500, np.ones(u.shape)], axis=-1) @ n)
    point = ImagePoint(320.0, 240.0, "it", covariance=np.eye(2) * 1e-6)
    exact = DepthOptions(subpixel_px=1e-4, floor_m=1e-5)
    whole = lift_point(frame_of(depth), point, exact)
    depth[236:245, 316:325] = np.nan
    hole = lift_point(frame_of(depth), point, exact)
    assert (whole.hole_px, hole.hole_px) == (0.0, 5.0)
    assert hole.position == pytest.approx(whole.position, abs=2e-4)
    fall = abs(depth[240, 315] - whole.position[2])
    assert hole.covariance[2, 2] - whole.covariance[2, 2] == pytest.approx((0.3 * fall) ** 2, rel=0.1)


def test_slope_is_limited_at_grazing_view() -> None:
    steep = DepthReading(1.0, 0.001, ambiguity=0.0, gap_m=0.0, hole_px=0.0, slope=np.array([0.0, 5.0]))
    gradient = depth_gradient(steep, np.array([0.0, 0.0, 1.0]), K)
    # n is all but (0, 1, 0): dz/dv would be -5 m/px; with n.r >= 0.15 it is -z / (f 0.15)
    assert gradient == pytest.approx([0, -1 / (500 * 0.15)], rel=1e-3)


@pytest.mark.parametrize(
    "depth", [np.full((480, 640), np.nan, np.float32), np.zeros((480, 640), np.float32)], ids=["nan", "zero"]
)
def test_frames_without_depth_are_refused(depth: Depth) -> None:
    with pytest.raises(DepthError):
        lift_point(frame_of(depth), ImagePoint(320.0, 240.0, "it"))


def test_ellipsoid_covers_the_truth() -> None:
    """Over pixels drawn around true ones, 90 % of true positions lie in the 90 % ellipsoid."""
    inside = []
    rng = np.random.default_rng(5)
    for solids in ([sphere(0, 0, 0.04), roll(0.1, 0.05, 0.015, 0.12)], [roll(0, 0, 0.03, 0.1)]):
        view = look(*solids, noise=1)
        truth = look(*view.solids).frame.depth
        v, u = np.nonzero(view.ids > 0)
        for k in rng.choice(len(u), 400, replace=False):
            x, y = np.array([u[k], v[k]]) + rng.normal(0, 1.5, 2)
            point = ImagePoint(float(x), float(y), "it", covariance=np.eye(2) * 1.5**2)
            lifted = lift_point(view.frame, point)
            f, c = view.frame.K[0, 0], view.frame.K[:2, 2]
            true = truth[v[k], u[k]] * np.array([(u[k] - c[0]) / f, (v[k] - c[1]) / f, 1])
            error = lifted.position - true
            inside.append(error @ np.linalg.solve(lifted.covariance, error) < chi2.ppf(0.9, 3))
    assert 0.85 < np.mean(inside) < 0.95
