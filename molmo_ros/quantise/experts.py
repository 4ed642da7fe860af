"""MolmoE's experts: 8 bits, with a scale for each output, rounded for the tokens that are routed to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Float32
from molmo_ros.network.weights import text_block
from molmo_ros.quantise.activations import Activations
from molmo_ros.quantise.blocks import NORMED, Block
from molmo_ros.quantise.layer import Layer, Method, round_matrix
from molmo_ros.quantise.rounding import Grid, Rounded, damped, largest_scales, output_error, to_nearest

PARTS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Expert:
    """Its inputs (T,D), and the three matrices (out,in)."""

    x: Float32
    gate: Float32
    up: Float32
    down: Float32


def round_experts(
    checkpoint: Checkpoint, index: int, layer: Layer, states: Activations, method: Method
) -> None:
    """Round the experts of a layer whose attention is rounded, and add them to it."""
    c = checkpoint.config.text
    assert c.experts is not None
    block = Block(checkpoint, index, layer.tensors(), (NORMED,))
    x = np.concatenate([block.run(h, limits)[0] for h, limits in zip(states, states.limits, strict=True)])
    name = f"{text_block(index)}mlp."
    picked = route(x, checkpoint.weights.read(f"{name}gate.weight"), c.experts.active)
    names = [f"{name}experts.{part}.weight" for part in PARTS]
    gate, up, down = (checkpoint.weights.read(one) for one in names)
    found: dict[str, list[Rounded]] = {one: [] for one in names}
    errors: dict[str, list[tuple[float, float]]] = {one: [] for one in names}
    for e in range(c.experts.count):
        expert = Expert(x[(picked == e).any(axis=1)], gate[e], up[e], down[e])
        for one, (rounded, error) in zip(names, round_expert(expert, method), strict=True):
            found[one].append(rounded)
            errors[one].append(error)
    layer.experts |= found
    for one in names:
        error, of_nearest = np.mean(errors[one], axis=0)
        layer.errors[one] = (float(error), float(of_nearest))


def route(x: Float32, weight: Float32, active: int) -> npt.NDArray[np.int64]:
    """The experts (T,active) that each token x (T,D) is sent to."""
    scores = x @ weight.T
    return np.argpartition(-scores, active - 1, axis=1)[:, :active]


def round_expert(expert: Expert, method: Method) -> list[tuple[Rounded, tuple[float, float]]]:
    """Gate, up and down, each with its error and that of rounding to nearest."""
    h = damped(expert.x.T @ expert.x)
    gate, up = (_round(weight, h, method) for weight in (expert.gate, expert.up))
    product = expert.x @ gate[0].weight.T
    inner = product / (1 + np.exp(-product)) * (expert.x @ up[0].weight.T)
    return [gate, up, _round(expert.down, damped(inner.T @ inner), method)]


def _round(weight: Float32, h: Float32, method: Method) -> tuple[Rounded, tuple[float, float]]:
    grid = Grid(8, weight.shape[1])
    rounded = round_matrix(weight, h, grid, method)
    nearest = to_nearest(weight, largest_scales(weight, grid), grid)
    return rounded, (output_error(weight, rounded.weight, h), output_error(weight, nearest.weight, h))
