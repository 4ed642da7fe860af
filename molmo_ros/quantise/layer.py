"""One layer: its matrices rounded in the order of their use, each compensating the errors of those before.

What enters a matrix in the rounded network is not what enters it in the exact one. GPTQ here still aims at
the exact network's result: the least-squares matrix for the inputs as they come is what is rounded; the sum
to which the result is added counts as well. Sources: GPTAQ (Li et al. 2025, arXiv 2504.02692), QEP (Arai &
Ichikawa 2025, arXiv 2504.09629).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Float32, Mask
from molmo_ros.network.weights import text_block
from molmo_ros.quantise.activations import Activations
from molmo_ros.quantise.awq import scale_layer
from molmo_ros.quantise.blocks import MIDDLE, Block
from molmo_ros.quantise.rounding import (
    Grid,
    Order,
    Rounded,
    damped,
    descend,
    fit_scales,
    gptq,
    largest_scales,
    output_error,
    search_scales,
    to_nearest,
)
from molmo_ros.quantise.rows import decision_error, round_groups
from molmo_ros.quantise.sensitivity import Metrics, Weights

Grids = Callable[[str, int], Grid]  # for a matrix by name and width

ROUNDS = 2  # of fitting scales and descending
SWEEPS = 3  # of a descent
READ_WEIGHT = 8.0  # of a token whose logits are read, relative to others
UNREAD_AT_LAST = 0.05  # of others, where their results are not used


@dataclass(frozen=True)
class Method:
    """What is done beyond rounding to nearest."""

    awq: bool = False
    gptq: bool = False

    @classmethod
    def parse(cls, name: str) -> Method:
        """One of METHODS."""
        return cls("awq" in name, "gptq" in name)


METHODS = ("rtn", "awq", "gptq", "awq+gptq")


@dataclass
class Layer:
    """Rounded matrices, those of all experts, tensors into which their scales were folded, and each one's
    error.

    ``errors``, of the outputs of a matrix: squared change as a share of the square, in the directions that
    decide if they are known, and the same for rounding to nearest.
    """

    matrices: dict[str, Rounded] = field(default_factory=dict)
    experts: dict[str, list[Rounded]] = field(default_factory=dict)
    folded: dict[str, Float32] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)

    def tensors(self) -> dict[str, Float32]:
        """The tensors that the layer computes with, by the checkpoint's names."""
        plain = {name: rounded.weight for name, rounded in self.matrices.items()}
        stacks = {name: np.stack([one.weight for one in each]) for name, each in self.experts.items()}
        return {**self.folded, **plain, **stacks}


@dataclass
class Moments:
    """Of the inputs of a matrix in the rounded network: their second moments (in,in), those with the exact
    network's inputs (in,in), and those of the error of the sum in front with them (out,in)."""

    h: Float32
    cross: Float32
    lost: Float32 | None = None


def matrices(checkpoint: Checkpoint, layer: int) -> list[str]:
    """Names of the matrices that go through ``Graph.linear``, in the order of their use."""
    name = text_block(layer)
    parts = ["self_attn.att_proj", "self_attn.attn_out"]
    if checkpoint.config.text.experts is None:
        parts += ["mlp.ff_proj", "mlp.ff_out"]
    return [f"{name}{part}.weight" for part in parts]


def round_layer(
    checkpoint: Checkpoint,
    index: int,
    exact: Activations,
    rounded: Activations,
    method: Method,
    grids: Grids,
    weights: Weights | None = None,
    metrics: Metrics | None = None,
) -> Layer:
    """Round the layer's matrices. ``exact`` and ``rounded``: what enters the layer in either network.

    ``weights`` of the tokens and ``metrics``, if the sensitivity was measured; else ``token_weights``.
    """
    names = matrices(checkpoint, index)
    scaled: dict[str, Float32] = {}  # exact but for the scales
    if method.awq:
        moments = second_moments(Block(checkpoint, index, {}, tuple(names)), rounded, names)
        scaled = scale_layer(checkpoint.config.text, index, checkpoint.weights.read, moments, grids)
    layer = Layer(folded={name: tensor for name, tensor in scaled.items() if name not in names})
    for name in names:
        weight = scaled[name] if name in scaled else np.asarray(checkpoint.weights.read(name), np.float32)
        found = _moments(checkpoint, index, name, scaled, layer, exact, rounded, method, weights)
        h = damped(found.h)
        target = wanted(weight, h, found) if method.gptq else weight
        grid = grids(name, weight.shape[1])
        metric = None if metrics is None else metrics.get(name)
        layer.matrices[name] = round_matrix(target, h, grid, method, metric)
        nearest = to_nearest(weight, largest_scales(weight, grid), grid)
        error, of_nearest = (_error(target, r.weight, h, metric) for r in (layer.matrices[name], nearest))
        layer.errors[name] = (error, of_nearest)
    return layer


def round_matrix(
    target: Float32, h: Float32, grid: Grid, method: Method, metric: Float32 | None = None
) -> Rounded:
    """One matrix by the method; ``metric`` (out,out), if it is known which outputs decide."""
    if not (method.gptq or method.awq):
        return to_nearest(target, largest_scales(target, grid), grid)
    if not method.gptq:
        return to_nearest(target, search_scales(target, np.ascontiguousarray(np.diag(h)), grid), grid)

    order = Order.of(h)

    def by_gptq(rows: Float32) -> Rounded:
        result = gptq(rows, order, search_scales(rows, np.ascontiguousarray(np.diag(h)), grid), grid)
        for _ in range(ROUNDS):
            result = descend(rows, h, fit_scales(rows, h, result), SWEEPS)
        return result

    return by_gptq(target) if metric is None else round_groups(target, metric, grid, by_gptq)


def _error(weight: Float32, other: Float32, h: Float32, metric: Float32 | None) -> float:
    return output_error(weight, other, h) if metric is None else decision_error(weight, other, h, metric)


def wanted(weight: Float32, h: Float32, found: Moments) -> Float32:
    """The matrix (out,in) that gives the exact network's results for the rounded network's inputs.

    Least squares, regularised towards ``weight`` by as much as H was damped; ``h`` is the damped one.
    """
    from scipy.linalg import cho_factor, cho_solve

    results = weight @ (found.cross + (h - found.h))
    if found.lost is not None:
        results += found.lost
    factor = cho_factor(h.astype(np.float64), overwrite_a=True)
    return np.ascontiguousarray(cho_solve(factor, results.T.astype(np.float64)).T, dtype=np.float32)


def second_moments(
    block: Block, states: Activations, names: list[str], weights: Weights | None = None
) -> dict[str, Float32]:
    """H (in,in) of several matrices of a layer at once, with ``weights`` of the tokens, if given."""
    sums: dict[str, Float32] = {}
    for i, (x, limits) in enumerate(zip(states, states.limits, strict=True)):
        for name, value in zip(names, block.run(x, limits), strict=True):
            weighted = value if weights is None else value * weights[name][i][:, None]
            part: Float32 = np.asarray(value.T @ weighted, np.float32)
            sums[name] = sums[name] + part if name in sums else part
    return sums


def _moments(
    checkpoint: Checkpoint,
    index: int,
    name: str,
    scaled: Mapping[str, Float32],
    layer: Layer,
    exact: Activations,
    rounded: Activations,
    method: Method,
    weights: Weights | None,
) -> Moments:
    """Run both networks up to the matrix; without GPTQ the rounded one alone."""
    so_far = {**scaled, **layer.tensors()}
    if not method.gptq:
        h = second_moments(Block(checkpoint, index, so_far, (name,)), rounded, [name])[name]
        return Moments(h, h)
    taps = _taps(checkpoint, name)
    before, now = (Block(checkpoint, index, changed, taps) for changed in (scaled, so_far))
    total: Moments | None = None
    for i, (x, q, limits, read) in enumerate(zip(exact, rounded, rounded.limits, rounded.read, strict=True)):
        (a, *a_sum), (b, *b_sum) = before.run(x, limits), now.run(q, limits)
        sums = (a_sum[0], b_sum[0]) if a_sum else (x, q)
        if weights is None:
            weighted = b * token_weights(checkpoint, index, name, read, sums[0])
        else:
            weighted = b * weights[name][i][:, None]
        lost = (sums[0] - sums[1]).T @ weighted if _is_added(checkpoint, name) else None
        part = Moments(b.T @ weighted, a.T @ weighted, lost)
        total = part if total is None else _plus(total, part)
    assert total is not None
    return total


def token_weights(checkpoint: Checkpoint, index: int, name: str, read: Mask, states: Float32) -> Float32:
    """The weight of an error at each token (T,1); ``states`` (T,D): what the matrix' result is added to.

    Tokens whose logits are read count more; after the last layer's attention nothing uses the others, except
    in MolmoPoint. What is added to a large sum counts less: the next norm divides by its size.
    """
    last = index == checkpoint.config.text.num_layers - 1 and not name.endswith("att_proj.weight")
    last = last and checkpoint.config.point is None
    weights = np.where(read, READ_WEIGHT, UNREAD_AT_LAST if last else 1.0).astype(np.float32)
    if _is_added(checkpoint, name):
        weights /= (states**2).mean(axis=1) + 1e-12
    return weights[:, None]


def _plus(a: Moments, b: Moments) -> Moments:
    a.h += b.h
    a.cross += b.cross
    if a.lost is not None and b.lost is not None:
        a.lost += b.lost
    return a


def _is_added(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a matrix' results go into the sum over the layers as they are."""
    return not checkpoint.config.text.norm_after and name.endswith(("attn_out.weight", "ff_out.weight"))


def _taps(checkpoint: Checkpoint, name: str) -> tuple[str, ...]:
    """What to tap: the matrix' inputs, and the sum in front of ``ff_out`` if its result goes there."""
    middle = name.endswith("ff_out.weight") and _is_added(checkpoint, name)
    return (name, MIDDLE) if middle else (name,)
