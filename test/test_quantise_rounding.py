"""Rounding one matrix: each step by itself, with numbers that can be followed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from molmo_ros.quantise.awq import best_scale
from molmo_ros.quantise.layer import Method, Moments, round_matrix, wanted
from molmo_ros.quantise.rounding import (
    Grid,
    Order,
    damped,
    descend,
    fit_scales,
    gptq,
    largest_scales,
    output_error,
    search_scales,
    to_nearest,
)
from molmo_ros.quantise.rows import decision_error, ridged

INT4, INT8 = Grid(4, 32), Grid(8, 96)


def correlated(rng: np.random.Generator, tokens: int, width: int) -> np.ndarray:
    """Inputs as layers have them: few directions hold most, and no two channels are independent."""
    mixing = rng.standard_normal((width, width)) * np.geomspace(1, 0.03, width)[:, None]
    return (rng.standard_normal((tokens, width)) @ mixing).astype(np.float32)


@pytest.fixture
def layer() -> tuple[np.ndarray, np.ndarray]:
    """A matrix (64,96) and the second moments of its inputs."""
    rng = np.random.default_rng(3)
    x = correlated(rng, 400, 96)
    return rng.standard_normal((64, 96)).astype(np.float32), damped(x.T @ x)


@pytest.mark.parametrize("grid", [INT4, INT8], ids=["int4", "int8"])
def test_each_step_lowers_the_error_of_outputs(layer: tuple[np.ndarray, np.ndarray], grid: Grid) -> None:
    weight, h = layer
    largest = largest_scales(weight, grid)
    searched = search_scales(weight, np.diag(h).copy(), grid)
    steps = [to_nearest(weight, largest, grid), gptq(weight, Order.of(h), searched, grid)]
    steps.append(descend(weight, h, steps[-1], 3))
    steps.append(fit_scales(weight, h, steps[-1]))
    steps.append(descend(weight, h, steps[-1], 3))
    errors = [output_error(weight, step.weight, h) for step in steps]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] <= errors[1] and errors[4] <= errors[3]
    assert errors[3] <= (1 if grid.bits == 4 else 1.1) * errors[2]  # bf16 scales are coarse for 8 bits
    for step in steps:
        assert step.values.min() >= grid.least and step.values.max() <= grid.most
        assert (step.scales > 0).all() and not (step.scales.view(np.uint32) & 0xFFFF).any()  # of bf16


def test_independent_inputs_leave_nothing_to_gain() -> None:
    """With H the identity, GPTQ is rounding to nearest, and a descent changes nothing."""
    weight = np.random.default_rng(0).standard_normal((8, 96)).astype(np.float32)
    scales = largest_scales(weight, INT4)
    nearest = to_nearest(weight, scales, INT4)
    h = np.eye(96, dtype=np.float32)
    assert np.array_equal(gptq(weight, Order.of(h), scales, INT4).values, nearest.values)
    assert np.array_equal(descend(weight, h, nearest, 2).values, nearest.values)


def test_two_inputs_that_are_the_same_share_an_error() -> None:
    """By hand: x1 = x2, both weights 0.4 of a step: to nearest is 0 + 0, best is 1 + 0."""
    weight = np.full((1, 16), 0.4, np.float32)
    h = damped(np.ones((16, 16), np.float32))
    grid = Grid(4, 16)
    rounded = gptq(weight, Order.of(h), np.ones((1, 1), np.float32), grid)
    assert rounded.values.sum() == pytest.approx(6.4, abs=0.5)
    assert to_nearest(weight, np.ones((1, 1), np.float32), grid).values.sum() == 0


def test_scales_of_a_block_of_zeros() -> None:
    weight = np.zeros((2, 32), np.float32)
    h = np.eye(32, dtype=np.float32)
    scales = search_scales(weight, np.ones(32, np.float32), INT4)
    rounded = fit_scales(weight, h, gptq(weight, Order.of(h), scales, INT4))
    assert not rounded.values.any() and np.isfinite(rounded.scales).all() and (rounded.scales > 0).all()


def test_wanted_undoes_what_inputs_lost(layer: tuple[np.ndarray, np.ndarray]) -> None:
    """Inputs that were halved and a sum that lost a tenth want a matrix of twice the size, and that tenth."""
    weight, _ = layer
    rng = np.random.default_rng(1)
    exact = rng.standard_normal((4000, 96)).astype(np.float32)
    now = exact / 2
    lost = exact[:, :64] / 10
    found = Moments(now.T @ now, exact.T @ now, lost.T @ now)
    target = wanted(weight, damped(found.h), found)
    np.testing.assert_allclose(now @ target.T, exact @ weight.T + lost, atol=0.5)
    assert np.abs(now @ target.T - exact @ weight.T - lost).mean() < 0.1


def test_outputs_that_decide(layer: tuple[np.ndarray, np.ndarray]) -> None:
    """Two directions of 64 decide: what the matrix gives in them keeps to a third of the error of GPTQ."""
    weight, h = layer
    g = np.random.default_rng(5).standard_normal((2, 64)).astype(np.float32)
    metric = ridged(g.T @ g)
    plain, guided = (round_matrix(weight, h, INT4, Method(gptq=True), one) for one in (None, metric))
    assert output_error(g @ weight, g @ guided.weight, h) < 0.33 * output_error(
        g @ weight, g @ plain.weight, h
    )
    assert decision_error(weight, guided.weight, h, metric) < decision_error(weight, plain.weight, h, metric)
    same = round_matrix(weight, h, INT4, Method(gptq=True), np.eye(64, dtype=np.float32))
    assert np.array_equal(same.values, plain.values)  # all alike: nothing to take up
    assert np.array_equal(ridged(np.zeros((3, 3), np.float32)), np.eye(3))


def test_scaling_for_outliers() -> None:
    """Three channels of 60 times the size: the error falls to less than half, by weights alone."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((128, 256)).astype(np.float32)
    x = rng.standard_normal((500, 256)).astype(np.float32)
    x[:, [7, 90, 200]] *= 60
    h, grid = x.T @ x, Grid(4, 128)
    s = best_scale(weight, h, grid)
    assert s[[7, 90, 200]].min() > 3 * np.median(s)
    scaled = to_nearest(weight * s, largest_scales(weight * s, grid), grid).weight / s
    plain = to_nearest(weight, largest_scales(weight, grid), grid).weight
    assert output_error(weight, scaled, h) < 0.25 * output_error(weight, plain, h)
