"""Rounding with calibration: each step by itself, all generations, and what runtimes make of the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_molmo1
import tiny_molmo2
import tiny_molmo_point

from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.checkpoint.rounded import QUANTISED
from molmo_ros.cli import main
from molmo_ros.errors import CheckpointError, EngineMismatchError, ParameterError
from molmo_ros.network.export import DECODER, export
from molmo_ros.network.precision import GPU_PRECISIONS
from molmo_ros.quantise import run as whole
from molmo_ros.quantise.activations import Activations, load_samples, save_samples
from molmo_ros.quantise.awq import best_scale, folds, scale_layer
from molmo_ros.quantise.blocks import OUT, Block
from molmo_ros.quantise.keep import Cost, choose, matrix_bits
from molmo_ros.quantise.layer import matrices, second_moments, wanted
from molmo_ros.quantise.layer import Moments as LayerMoments
from molmo_ros.quantise.rounding import (
    Grid,
    damped,
    descend,
    fit_scales,
    gptq,
    largest_scales,
    output_error,
    search_scales,
    to_nearest,
)
from molmo_ros.quantise.run import Plan, quantise
from molmo_ros.quantise.samples import Listener, Question, Sample, record
from molmo_ros.runtimes.base import Runtime
from molmo_ros.runtimes.select import load_runtime
from molmo_ros.tools.build_engine import export_graphs, profiles
from molmo_ros.tools.compile_trt import compile_onnx

INT4, INT8 = Grid(4, 32), Grid(8, 96)
CORPUS = "Point to the red mug."


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
    steps = [to_nearest(weight, largest, grid), gptq(weight, h, searched, grid)]
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
    assert np.array_equal(gptq(weight, h, scales, INT4).values, nearest.values)
    assert np.array_equal(descend(weight, h, nearest, 2).values, nearest.values)


def test_two_inputs_that_are_the_same_share_an_error() -> None:
    """By hand: x1 = x2, both weights 0.4 of a step: to nearest is 0 + 0, best is 1 + 0."""
    weight = np.full((1, 16), 0.4, np.float32)
    h = damped(np.ones((16, 16), np.float32))
    grid = Grid(4, 16)
    rounded = gptq(weight, h, np.ones((1, 1), np.float32), grid)
    assert rounded.values.sum() == pytest.approx(6.4, abs=0.5)
    assert to_nearest(weight, np.ones((1, 1), np.float32), grid).values.sum() == 0


def test_scales_of_a_block_of_zeros() -> None:
    weight = np.zeros((2, 32), np.float32)
    h = np.eye(32, dtype=np.float32)
    rounded = fit_scales(weight, h, gptq(weight, h, search_scales(weight, np.ones(32, np.float32), INT4), INT4))
    assert not rounded.values.any() and np.isfinite(rounded.scales).all() and (rounded.scales > 0).all()


def test_wanted_undoes_what_inputs_lost(layer: tuple[np.ndarray, np.ndarray]) -> None:
    """Inputs that were halved and a sum that lost a tenth want a matrix of twice the size, and that tenth."""
    weight, _ = layer
    rng = np.random.default_rng(1)
    exact = rng.standard_normal((4000, 96)).astype(np.float32)
    now = exact / 2
    lost = exact[:, :64] / 10
    found = LayerMoments(now.T @ now, exact.T @ now, lost.T @ now)
    target = wanted(weight, damped(found.h), found)
    np.testing.assert_allclose(now @ target.T, exact @ weight.T + lost, atol=0.5)
    assert np.abs(now @ target.T - exact @ weight.T - lost).mean() < 0.1


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


GENERATIONS = {
    "qwen": lambda folder: tiny_molmo2.write_checkpoint(folder, tiny_molmo2.QWEN, max_crops=0),
    "qwen_bias": lambda folder: tiny_molmo2.write_checkpoint(folder, tiny_molmo2.QWEN_BIAS, max_crops=0),
    "olmo": lambda folder: tiny_molmo2.write_checkpoint(folder, tiny_molmo2.OLMO, max_crops=0),
    "v1": lambda folder: tiny_molmo1.write_checkpoint(folder, tiny_molmo1.OLMO),
    "mixture": lambda folder: tiny_molmo1.write_checkpoint(folder, tiny_molmo1.MIXTURE),
    "point": lambda folder: tiny_molmo_point.write_checkpoint(folder),
}


@pytest.fixture(scope="module", params=GENERATIONS)
def generation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random checkpoint of each generation."""
    return load_checkpoint(str(GENERATIONS[request.param](tmp_path_factory.mktemp(request.param) / "ckpt")))


def pictures(count: int, seed: int) -> Iterator[Question]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), CORPUS


def sequences(checkpoint: Checkpoint, count: int, seed: int, most_tokens: int = 8) -> list[Sample]:
    runtime = load_runtime(checkpoint, "onnx", "fp32", threads=1)
    return list(record(checkpoint, runtime, pictures(count, seed), most_tokens))


def logits(runtime: Runtime, samples: list[Sample]) -> np.ndarray:
    """Of all tokens but those of the image, whose logits nobody reads."""
    found = []
    for sample in samples:
        rows = np.arange(len(sample.limits) - 12, len(sample.limits))
        found.append(runtime.run(sample.embeds, sample.limits, runtime.new_cache(), rows))
    return np.concatenate(found)


def test_scaled_weights_compute_the_same(generation: Checkpoint, tmp_path: Path) -> None:
    save_samples(iter(sequences(generation, 2, 0)), 2, tmp_path, lambda done: None)
    states = load_samples(tmp_path)
    assert states is not None
    names = matrices(generation, 1)
    moments = second_moments(Block(generation, 1, {}, tuple(names)), states, names)
    text = generation.config.text
    scaled = scale_layer(text, 1, generation.weights.read, moments, lambda name, width: Grid(4, 16))
    assert {fold.matrix for fold in folds(text, 1)} <= scaled.keys()
    assert any(np.abs(scaled[n] / generation.weights.read(n) - 1).max() > 0.1 for n in names if n in scaled)
    for x, limits in zip(states, states.limits, strict=True):
        (before,), (after,) = (Block(generation, 1, w, (OUT,)).run(x, limits) for w in ({}, scaled))
        np.testing.assert_allclose(after, before, atol=2e-4 * np.abs(before).max())


def test_a_block_computes_what_the_decoder_does(generation: Checkpoint, tmp_path: Path) -> None:
    """All layers one by one, and the head in numpy: the logits of the whole graph."""
    samples = sequences(generation, 1, 0)
    x = samples[0].embeds
    for index in range(generation.config.text.num_layers):
        (x,) = Block(generation, index, {}, (OUT,)).run(x, samples[0].limits)
    c, read = generation.config.text, generation.weights.read
    normed = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + c.norm_eps) * read("model.transformer.ln_f.weight")
    expected = logits(load_runtime(generation, "onnx", "fp32", threads=1), samples)
    found = normed[-12:] @ read("lm_head.weight").T
    np.testing.assert_allclose(found, expected[:, : found.shape[1]], atol=1e-3)


@pytest.mark.parametrize("method", ["awq", "gptq", "awq+gptq"])
def test_logits_stay_nearer_than_rounded_to_nearest(generation: Checkpoint, tmp_path: Path, method: str) -> None:
    """On new images; random weights gain least, since their inputs have no structure but the model's own."""
    folder = tmp_path / "q"
    quantise(generation, folder, Plan("int4", method, samples=24), pictures(24, 0))
    held = load_checkpoint(str(folder))
    assert held.rounded is not None and held.rounded.facts["method"] == method
    new = sequences(generation, 6, 99)
    exact = logits(load_runtime(generation, "onnx", "fp32", threads=1), new)
    nearest = logits(load_runtime(generation, "onnx", "int4", threads=1), new)
    calibrated = logits(load_runtime(held, "onnx", "auto", threads=1), new)
    errors = [float(np.square(found - exact).mean() ** 0.5) for found in (nearest, calibrated)]
    print(method, errors[1] / errors[0])
    assert errors[1] < (0.97 if method == "awq" else 0.8) * errors[0]
    for entry in held.rounded.matrices.values():
        assert entry["error"] <= entry["error_nearest"] * 1.001
