"""Mixed precision: which matrices to hold in 8 bits instead of 4, by the error that each causes on its
own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Float32
from molmo_ros.network.config import TextConfig
from molmo_ros.network.precision import block_size
from molmo_ros.quantise.activations import Activations
from molmo_ros.quantise.blocks import OUT, Block
from molmo_ros.quantise.cost import shapes
from molmo_ros.quantise.layer import Method, matrices, round_matrix, second_moments
from molmo_ros.quantise.rounding import Grid, damped
from molmo_ros.quantise.sensitivity import Weights

SCALE_BITS = 16
SAMPLES = 32  # sequences that the errors are measured on


@dataclass(frozen=True)
class Cost:
    """A matrix: its shape, and the error it causes in 4 bits: in decisions, or in the layer's result."""

    shape: tuple[int, int]
    error: float

    def bits(self, kind: str) -> float:
        return matrix_bits(self.shape, kind)


def matrix_bits(shape: tuple[int, ...], kind: str) -> float:
    """Bits of a matrix (out,in) with its scales, which take 16 bits each."""
    count = float(np.prod(shape))
    if kind == "int4":
        return count * (4 + SCALE_BITS / block_size(shape[-1]))
    return count * (8 + SCALE_BITS / shape[-1])


def least_bits(c: TextConfig) -> float:
    """Bits a weight, on average, of matrices that are all int4; experts, which never are, do not count."""
    sizes = shapes(c) if c.experts is None else shapes(c)[:2]
    return sum(matrix_bits(size, "int4") for size in sizes) / sum(out * width for out, width in sizes)


def decision_costs(
    checkpoint: Checkpoint, index: int, states: Activations, method: Method, weights: Weights
) -> dict[str, Cost]:
    """Round each matrix of the layer to 4 bits: the squared change of its results, each token's times its
    ``weights``, is about the squared change of the distances between the logits that decide."""
    names = matrices(checkpoint, index)
    moments = second_moments(Block(checkpoint, index, {}, tuple(names)), states, names, weights)
    costs = {}
    for name in names:
        weight, rounded = _in_4_bits(checkpoint, name, moments[name], method)
        change = weight - rounded
        error = float(np.einsum("oi,oi->", change @ moments[name], change, dtype=np.float64))
        costs[name] = Cost((weight.shape[0], weight.shape[1]), error / len(weight) / states.tokens)
    return costs


def layer_costs(checkpoint: Checkpoint, index: int, states: Activations, method: Method) -> dict[str, Cost]:
    """Round each matrix of the layer to 4 bits while all others stay exact: the squared change of the
    layer's result, as a share of that."""
    names = matrices(checkpoint, index)
    moments = second_moments(Block(checkpoint, index, {}, tuple(names)), states, names)
    exact = _outputs(checkpoint, index, {}, states)
    costs = {}
    for name in names:
        weight, rounded = _in_4_bits(checkpoint, name, moments[name], method)
        found = _outputs(checkpoint, index, {name: rounded}, states)
        share = [((a - b) ** 2).sum(axis=1) / (a**2).sum(axis=1) for a, b in zip(exact, found, strict=True)]
        costs[name] = Cost((weight.shape[0], weight.shape[1]), float(np.mean(np.concatenate(share))))
    return costs


def _in_4_bits(checkpoint: Checkpoint, name: str, h: Float32, method: Method) -> tuple[Float32, Float32]:
    """The matrix, exact and rounded."""
    weight = np.asarray(checkpoint.weights.read(name), np.float32)
    return weight, round_matrix(weight, damped(h), Grid(4, block_size(weight.shape[1])), method).weight


def choose(costs: Mapping[str, Cost], bits: float) -> set[str]:
    """The matrices that get 8 bits, so that the average is at most ``bits`` a weight, scales included.

    Those first whose error falls most for the bits they cost.
    """
    room = bits * sum(float(np.prod(cost.shape)) for cost in costs.values())
    room -= sum(cost.bits("int4") for cost in costs.values())
    more = {name: cost.bits("int8") - cost.bits("int4") for name, cost in costs.items()}
    kept = set()
    for name in sorted(costs, key=lambda n: costs[n].error / more[n], reverse=True):
        if more[name] <= room:
            kept.add(name)
            room -= more[name]
    return kept


def _outputs(
    checkpoint: Checkpoint, index: int, changed: Mapping[str, Float32], states: Activations
) -> list[Float32]:
    block = Block(checkpoint, index, changed, (OUT,))
    return [block.run(x, limits)[0] for x, limits in zip(states, states.limits, strict=True)]
