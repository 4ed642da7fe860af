"""How much an error at each token, after each matrix, changes what the model decides.

A token's answer is the first of its logits; what can change it is the distance to the second. The gradients
of these distances, each with a random sign and more weight the smaller it is, are propagated back through the
exact network. Of the gradients g at a matrix' results, the squares |g|^2, token by token, are the weights
that GPTQ gives to the tokens, and the second moments M of g tell which results decide (``rows``). Sources:
GuidedQuant (Kim et al. 2025, arXiv 2505.07004) and YAQA (Tseng et al. 2025, arXiv 2505.22988), there with
other losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from onnx import TensorProto

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Float32, Index, Mask, Progress
from molmo_ros.network.weights import HEAD, TEXT
from molmo_ros.quantise.activations import Activations
from molmo_ros.quantise.blocks import OUT, Block, TappedGraph
from molmo_ros.quantise.gradient import GradientGraph
from molmo_ros.quantise.rows import MOST_OUTPUTS, ridged

PROBES = 2  # random signs
NEAR = 1.0  # a distance between two logits at which a decision has half the weight
FLOOR = np.float32(0.02)  # of the mean weight, for every token

Weights = dict[str, list[Float32]]  # of a layer: by matrix, for each sample the weights of its tokens (T,)
Metrics = dict[str, Float32]  # of a layer: by matrix, M (out,out); none for a very wide one


def can_measure(checkpoint: Checkpoint) -> bool:
    """MolmoE's choice of experts has no gradient, and MolmoPoint decides by more than logits."""
    return checkpoint.config.text.experts is None and checkpoint.config.point is None


def measure(
    checkpoint: Checkpoint, samples: Activations, names: list[list[str]], work: Path, progress: Progress
) -> None:
    """Write the weights of all tokens at the matrices ``names`` of each layer, and M, into ``work``.

    The exact network's states in front of each layer, ``exact-I.npy``, must be there.
    """
    layers = len(names)
    if weights_file(work, 0).is_file():
        return
    gradients = _begin(checkpoint, samples, work / f"exact-{layers}.npy", work / f"gradient-{layers}.npy")
    for index in reversed(range(layers)):
        progress("sensitivity", 1 - index / layers)
        states = samples if index == 0 else samples.at(work / f"exact-{index}.npy")
        block = GradientBlock(checkpoint, index, {}, tuple(names[index]))
        found: list[Float32] = []
        before = gradients.write(
            work / f"gradient-{index}.npy",
            _back(block, states, gradients, found),
            PROBES * checkpoint.config.text.hidden_size,
        )
        np.savez(metrics_file(work, index), **block.metrics)  # type: ignore[arg-type]
        unfinished = work / "weights.unfinished.npy"
        np.save(unfinished, np.concatenate(found))
        unfinished.rename(weights_file(work, index))
        gradients.path.unlink()
        gradients = before
    gradients.path.unlink()


def weights_file(work: Path, layer: int) -> Path:
    return work / f"weights-{layer}.npy"


def metrics_file(work: Path, layer: int) -> Path:
    return work / f"metrics-{layer}.npz"


def load_metrics(work: Path, layer: int) -> Metrics:
    """What ``measure`` wrote for a layer, in the form that ``rows`` needs."""
    with np.load(metrics_file(work, layer)) as held:
        return {name: ridged(held[name]) for name in held.files}


def load_weights(work: Path, layer: int, names: list[str], samples: Activations) -> Weights:
    """What ``measure`` wrote for a layer, plus a little for tokens that change nothing."""
    weights = np.load(weights_file(work, layer))  # (tokens,matrices)
    weights = weights + FLOOR * weights.mean(axis=0)
    ends = np.cumsum([len(limits) for limits in samples.limits])[:-1]
    return {name: np.split(weights[:, k], ends) for k, name in enumerate(names)}


class GradientBlock(Block):
    """A layer backwards. The taps are matrices; ``metrics``, their M, summed over all runs."""

    graph = GradientGraph

    def __init__(
        self, checkpoint: Checkpoint, index: int, changed: Mapping[str, Float32], taps: tuple[str, ...]
    ) -> None:
        super().__init__(checkpoint, index, changed, taps)
        self._taps = taps
        self.metrics: Metrics = {}

    def back(self, x: Float32, limits: Index, gradient: Float32) -> tuple[Float32, Float32]:
        """States x (T,D) in front of the layer, the gradient (T,D) after it -> that in front of it (T,D), and
        its squares after each matrix (T,matrices)."""
        before, *behind = self._run(x, limits, {"gradient": gradient[None]})
        for tap, g in zip(self._taps, behind, strict=True):
            if g.shape[1] <= MOST_OUTPUTS:
                part = g.T @ g
                self.metrics[tap] = self.metrics[tap] + part if tap in self.metrics else part
        return before, np.stack([(g**2).sum(axis=1) for g in behind], axis=1)

    def _add_outputs(self, graph: TappedGraph, taps: tuple[str, ...]) -> list[str]:
        assert isinstance(graph, GradientGraph)
        given = graph.input("gradient", TensorProto.FLOAT, [1, "T", "D"])
        found = graph.backward("x", graph.seen[OUT], given)
        names = ["before", *(f"behind_{tap}" for tap in taps)]
        for value, name in zip(["x", *(graph.made[tap] for tap in taps)], names, strict=True):
            graph.output(found[value], name, TensorProto.FLOAT, None)  # type: ignore[arg-type]
        return names


def _back(
    block: GradientBlock, states: Activations, gradients: Activations, found: list[Float32]
) -> Iterator[Float32]:
    """The gradients in front of the layer (T,probes*D), sample by sample; their squares go to ``found``."""
    for x, behind, limits in zip(states, gradients, states.limits, strict=True):
        parts, squares = zip(
            *(block.back(x, limits, g) for g in np.split(behind, PROBES, axis=1)), strict=True
        )
        found.append(np.mean(squares, axis=0))
        yield np.concatenate(parts, axis=1)


def _begin(checkpoint: Checkpoint, samples: Activations, last: Path, path: Path) -> Activations:
    """The gradients after the last layer (T,probes*D)."""
    c, read = checkpoint.config.text, checkpoint.weights.read
    norm, head = (np.asarray(read(name), np.float32) for name in (f"{TEXT}ln_f.weight", HEAD))
    rng = np.random.default_rng(0)
    states = samples.at(last)
    parts = (
        decision_gradients(x, seen, norm, head, c.norm_eps, rng)
        for x, seen in zip(states, states.read, strict=True)
    )
    return states.write(path, parts, PROBES * c.hidden_size)


def decision_gradients(
    x: Float32, read: Mask, norm: Float32, head: Float32, eps: float, rng: np.random.Generator
) -> Float32:
    """States x (T,D) after the last layer -> gradients (T,probes*D) of the distances between the top two
    logits of the tokens ``read`` (T,), each times a random sign and 1 / sqrt(1 + (distance / NEAR)^2)."""
    size = 1 / np.sqrt((x[read] ** 2).mean(axis=1, keepdims=True) + eps)
    unit = x[read] * size
    logits = (unit * norm) @ head.T
    second, first = np.argpartition(logits, (-2, -1), axis=1)[:, -2:].T
    rows = np.arange(len(logits))
    distance = (logits[rows, first] - logits[rows, second]) / NEAR
    direction = (head[first] - head[second]) * norm / np.sqrt(1 + distance**2)[:, None]
    direction = (direction - unit * (direction * unit).mean(axis=1, keepdims=True)) * size
    result = np.zeros((len(x), PROBES, x.shape[1]), np.float32)
    signs = rng.choice(np.array([-1, 1], np.float32), (len(direction), PROBES, 1))
    result[read] = direction[:, None] * signs
    return result.reshape(len(x), -1)
