"""MolmoE's feed-forward layer: from many small gated MLPs, a router picks those that serve a token.

Sizes in the comments: T tokens, E experts, k of them active, D width of the text model, F width of an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from molmo_ros.network.config import Experts, TextConfig
from molmo_ros.network.graph import Graph, Value
from molmo_ros.network.precision import round_outputs

Read = Callable[[str], npt.NDArray[np.float32]]

# Up to this many tokens, reading only the picked experts is less work than passing all tokens through all of
# them.
GATHERED_TOKENS = 4


@dataclass(frozen=True)
class Matrices:
    """One matrix of each expert: (E,in,out), or 8-bit integers and a scale for each output, (E,1,out)."""

    weight: Value
    scale: Value | None = None


def mixture_of_experts(graph: Graph, read: Read, c: TextConfig, name: str, x: Value) -> Value:
    """x (1,T,D) -> (1,T,D): the sum of the picked experts, each times its probability.

    The probabilities of the picked ones are not scaled to a sum of 1. A few tokens gather the matrices of
    their experts; many tokens pass through all experts, where those not picked have weight zero.
    """
    assert c.experts is not None
    experts = c.experts
    parts = [matrices(graph, read, f"{name}experts.{p}_proj.weight") for p in ("gate", "up", "down")]
    share, picked = route(graph, read, experts, name, x)  # (T,k), (T,k)
    x = graph.reshape(x, -1, c.hidden_size)  # (T,D)
    few = graph.op("LessOrEqual", graph.length(x, 0), graph.integer(GATHERED_TOKENS))
    total = graph.choose(
        few,
        lambda: gathered(graph, x, share, picked, *parts),
        lambda: everywhere(graph, experts, x, share, picked, *parts),
    )
    return graph.reshape(total, 1, -1, c.hidden_size)


def matrices(graph: Graph, read: Read, name: str) -> Matrices:
    """The matrices of all experts; rounded to 8 bits even where the others have 4."""
    weight = read(name)  # (E,out,in)
    if not graph.precision.rounds_experts:
        return Matrices(graph.weight(name, np.ascontiguousarray(weight.transpose(0, 2, 1))))
    if graph.rounded is not None and graph.rounded.kind(name) is not None:
        held = graph.rounded.matrix(name)
        integers = graph.int8_weight(f"{name}.int8", held.values)
        return Matrices(integers, graph.weight(f"{name}.scale", held.scales[:, None]))
    rounded = [round_outputs(expert) for expert in weight]
    values = graph.int8_weight(f"{name}.int8", np.stack([v for v, _ in rounded]))
    scales = np.stack([scale for _, scale in rounded])[:, None]
    return Matrices(values, graph.weight(f"{name}.scale", scales))


def product(graph: Graph, x: Value, m: Matrices, picked: Value | None = None) -> Value:
    """x times the matrix of each expert, or of those picked for each token (T,k)."""
    weight = m.weight if picked is None else graph.gather(m.weight, picked)
    if m.scale is None:
        return graph.matmul(x, weight)
    scale = m.scale if picked is None else graph.gather(m.scale, picked)
    return graph.mul(graph.matmul(x, graph.cast(weight, graph.precision.activations)), scale)


def route(graph: Graph, read: Read, experts: Experts, name: str, x: Value) -> tuple[Value, Value]:
    """Probabilities (T,k) of the most probable experts, and which they are (T,k)."""
    weight = graph.fp32_weight(f"{name}gate.weight", np.ascontiguousarray(read(f"{name}gate.weight").T))
    scores = graph.reshape(graph.matmul(graph.to_fp32(x), weight), -1, experts.count)
    chances = graph.op("Softmax", scores, axis=-1)
    share, picked = graph.ops("TopK", chances, graph.ints(experts.active), outputs=2, axis=-1)
    return graph.to_activations(share), picked


def gathered(
    graph: Graph, x: Value, share: Value, picked: Value, gate: Matrices, up: Matrices, down: Matrices
) -> Value:
    """x (T,D) -> (T,D), each token with the matrices (k,D,F) and (k,F,D) of its own experts."""
    x = graph.op("Unsqueeze", x, graph.ints(1, 2))  # (T,1,1,D)
    h = graph.mul(graph.silu(product(graph, x, gate, picked)), product(graph, x, up, picked))  # (T,k,1,F)
    h = graph.mul(h, graph.op("Unsqueeze", share, graph.ints(2, 3)))
    return graph.op("ReduceSum", product(graph, h, down, picked), graph.ints(1, 2), keepdims=0)


def everywhere(
    graph: Graph,
    experts: Experts,
    x: Value,
    share: Value,
    picked: Value,
    gate: Matrices,
    up: Matrices,
    down: Matrices,
) -> Value:
    """x (T,D) -> (T,D) by way of all experts (E,T,F); the share of one not picked is 0."""
    h = graph.mul(graph.silu(product(graph, x, gate)), product(graph, x, up))  # (E,T,F)
    numbers = graph.arange(graph.integer(experts.count))
    chosen = graph.op("Equal", graph.op("Unsqueeze", picked, graph.ints(2)), numbers)  # (T,k,E)
    chosen = graph.to_activations(graph.cast(chosen, TensorProto.FLOAT))
    shares = graph.op(
        "ReduceSum", graph.mul(chosen, graph.op("Unsqueeze", share, graph.ints(2))), graph.ints(1), keepdims=0
    )  # (T,E)
    shares = graph.op("Unsqueeze", graph.transpose(shares, 1, 0), graph.ints(2))  # (E,T,1)
    return graph.op("ReduceSum", product(graph, graph.mul(h, shares), down), graph.ints(0), keepdims=0)
