"""The decoder graph for ONNX Runtime's CUDA provider: it writes new keys and values into the cache itself.

The cache is an input and an output at one address, so nothing is copied but the new rows, and all shapes and
addresses of a pass stay the same as long as its cache bucket does: it can be replayed as a CUDA graph.
Sizes in the comments as in ``network.decoder``; P is how many slots of the cache are attended to.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from molmo_ros.network.config import AskedTokens, ModelConfig, TextConfig
from molmo_ros.network.decoder import Read, query_key_norm, rotary_layer, rotary_layers, text_model
from molmo_ros.network.fused import FusedGraph
from molmo_ros.network.graph import Dim, Value
from molmo_ros.network.weights import text_block

# Rows of the table of angles, and the most tokens that such a cache holds.
MOST_POSITIONS = 8192


def build_decoder_in_place(graph: FusedGraph, read: Read, config: ModelConfig, asked: AskedTokens) -> None:
    """Add the whole text model to ``graph``.

    inputs_embeds (1,T,D) fp32; position_ids (T,), kv_limit (T,), logit_idx (N,) int64 as in
    ``build_decoder``; slots (P,) int64: 0 ... P-1; past_key_i and past_value_i (P,G,K), in which slot p holds
    position p -> present_key_i and present_value_i (P,G,K), to be bound to the memory of the past, and the
    outputs of ``text_model``.
    """
    c, act = config.text, graph.precision.activations
    x = graph.input("inputs_embeds", TensorProto.FLOAT, [1, "T", c.hidden_size])
    positions = graph.input("position_ids", TensorProto.INT64, ["T"])
    limit = graph.input("kv_limit", TensorProto.INT64, ["T"])
    rows = graph.input("logit_idx", TensorProto.INT64, ["N"])
    slots = graph.input("slots", TensorProto.INT64, ["P"])
    shape: list[Dim] = ["P", c.num_kv_heads, c.head_dim]
    share = c.num_heads // c.num_kv_heads
    bias = visibility(graph, limit, slots)  # (T,P)
    last_bias = graph.gather(bias, rows)
    if share > 1:
        bias, last_bias = (graph.concat(*[b] * share, axis=0) for b in (bias, last_bias))  # (H/G*T,P)
    at = graph.op("Unsqueeze", positions, graph.ints(1))  # (T,1)
    turns = graph.op("Unsqueeze", positions, graph.ints(0))  # (1,T)
    tables = {i: rotary_tables(graph, c, i) for i in rotary_layers(c)}

    def attend(i: int, h: Value, only: Value | None) -> Value:
        name = f"{text_block(i)}self_attn."
        q, k, v = projections(graph, read, c, name, h)
        q, k = (graph.rotate(part, turns, *tables[rotary_layer(c, i)]) for part in (q, k))
        keys, values = (
            graph.write_rows(
                graph.input(f"past_{kind}_{i}", act, shape), at,
                graph.reshape(part, -1, c.num_kv_heads, c.head_dim), f"present_{kind}_{i}", act, shape,
            )
            for kind, part in (("key", k), ("value", v))
        )  # fmt: skip
        q = q if only is None else graph.gather(q, only, axis=1)
        q = graph.transpose(graph.reshape(q, -1, c.num_kv_heads, share, c.head_dim), 1, 2, 0, 3)
        q = graph.reshape(q, c.num_kv_heads, -1, c.head_dim)  # (G,H/G*T,K)
        sees = bias if only is None else last_bias
        h = graph.grouped_attention(q, keys, values, c.head_dim**-0.5, sees)
        h = graph.transpose(graph.reshape(h, c.num_kv_heads, share, -1, c.head_dim), 2, 0, 1, 3)
        h = graph.reshape(h, 1, -1, c.num_heads * c.head_dim)
        return graph.linear(h, f"{name}attn_out", read(f"{name}attn_out.weight"))

    text_model(graph, read, config, asked, graph.to_residual(x), rows, attend)


def visibility(graph: FusedGraph, limit: Value, slots: Value) -> Value:
    """0 where token t may see slot p, far below 0 elsewhere: (T,P)."""
    seen = graph.op("Less", slots, graph.op("Unsqueeze", limit, graph.ints(1)))
    return graph.op("Where", seen, graph.scalar(0.0), graph.scalar(graph.invisible()))


def rotary_tables(graph: FusedGraph, c: TextConfig, layer: int) -> tuple[Value, Value]:
    """Cosines and sines (M,K/2) of all positions."""
    frequencies, factor = c.inverse_frequencies(layer)
    angles = np.arange(min(c.max_positions, MOST_POSITIONS), dtype=np.float32)[:, None] * frequencies
    cosines = graph.weight(f"cosines_{layer}", np.cos(angles) * np.float32(factor))
    return cosines, graph.weight(f"sines_{layer}", np.sin(angles) * np.float32(factor))


def projections(graph: FusedGraph, read: Read, c: TextConfig, name: str, x: Value) -> list[Value]:
    """x (1,T,D) -> q (1,T,H*K), k and v (1,T,G*K), normed where the model does."""
    q_size, kv_size = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    bias = read(f"{name}att_proj.bias") if c.qkv_bias else None
    weight = read(f"{name}att_proj.weight")
    q, k, v = graph.linear_parts(x, f"{name}att_proj", weight, (q_size, kv_size, kv_size), bias)
    q = query_key_norm(graph, read, c, f"{name}q_norm", q, c.num_heads)
    k = query_key_norm(graph, read, c, f"{name}k_norm", k, c.num_kv_heads)
    return [graph.reshape(q, 1, -1, q_size), graph.reshape(k, 1, -1, kv_size), v]
