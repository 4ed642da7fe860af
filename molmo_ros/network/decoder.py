"""The decoder graph: embeddings and a key-value cache in, logits of chosen rows and new cache rows out.

One graph serves prefill (T tokens, empty cache) and decode (one or a few tokens after a cache).
Sizes in the comments: T new tokens, P cached positions, S = P + T, H heads, G key-value heads,
K head size, D width, N rows whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from molmo_ros.datatypes import Float32
from molmo_ros.network.choices import choice_outputs
from molmo_ros.network.config import AskedTokens, ModelConfig, TextConfig
from molmo_ros.network.experts import mixture_of_experts
from molmo_ros.network.graph import Graph, Value
from molmo_ros.network.patch_pointer import token_outputs
from molmo_ros.network.weights import EXTRA_HEAD, HEAD, TEXT, text_block

Read = Callable[[str], Float32]
Rotary = tuple[Value, Value]  # cosines and sines, each (T,1,K)
# Layer, its normed input (1,T,D), and which rows (N,) look at the keys if not all -> (1,T,D) or (1,N,D).
Attend = Callable[[int, Value, Value | None], Value]


def build_decoder(graph: Graph, read: Read, config: ModelConfig, asked: AskedTokens) -> None:
    """Add the whole text model to ``graph``.

    inputs_embeds (1,T,D) fp32; position_ids (T,) int64; kv_limit (T,) int64: how many leading positions of
    the sequence each token may see (position + 1 for text, the end of the image block for its tokens);
    logit_idx (N,) int64; past_len () int64: how many of the P cached positions are filled; past_key_i and
    past_value_i (1,P,G,K) -> new_kv (2L,T,G,K), keys of layer i at 2i, and the outputs of ``text_model``.
    """
    c = config.text
    act = graph.precision.activations
    x = graph.input("inputs_embeds", TensorProto.FLOAT, [1, "T", c.hidden_size])
    positions = graph.input("position_ids", TensorProto.INT64, ["T"])
    limit = graph.input("kv_limit", TensorProto.INT64, ["T"])
    rows = graph.read_rows = graph.input("logit_idx", TensorProto.INT64, ["N"])
    past_len = graph.input("past_len", TensorProto.INT64, [])
    past = [
        [
            graph.input(f"past_{kind}_{i}", act, [1, "P", c.num_kv_heads, c.head_dim])
            for kind in ("key", "value")
        ]
        for i in range(c.num_layers)
    ]
    bias = visibility(graph, limit, past_len, past[0][0], positions)  # (1,1,T,S)
    last_bias = graph.gather(bias, rows, axis=2)  # (1,1,N,S)
    if graph.precision.grouped:  # (1,1,H/G*T,S)
        share = c.num_heads // c.num_kv_heads
        bias, last_bias = (graph.concat(*[b] * share, axis=2) for b in (bias, last_bias))
    rotary = {i: rotary_table(graph, c, i, positions) for i in rotary_layers(c)}
    x = graph.to_residual(x)
    new: list[Value] = []

    def attend(i: int, h: Value, only: Value | None) -> Value:
        sees = bias if only is None else last_bias
        name = f"{text_block(i)}self_attn."
        h, key, value = self_attention(
            graph, read, c, name, h, rotary[rotary_layer(c, i)], sees, past[i], only
        )
        new.extend([key, value])
        return h

    text_model(graph, read, config, asked, x, rows, attend)
    graph.output(
        graph.concat(*new, axis=0), "new_kv", act, [2 * c.num_layers, "T", c.num_kv_heads, c.head_dim]
    )


def text_model(
    graph: Graph,
    read: Read,
    config: ModelConfig,
    asked: AskedTokens,
    x: Value,
    rows: Value,
    attend: Attend,
) -> None:
    """All blocks and the head: x (1,T,D) -> the output ``logits`` (N,vocabulary) fp32 of some ``rows`` (N,),
    and where the precision ``chooses``, the tokens that come next (``choice_outputs``). MolmoPoint: one more
    output, see ``token_outputs``.

    Of the last block, only those rows are needed, beside keys and values of all tokens.
    """
    c = config.text
    for i in range(c.num_layers):
        last = i == c.num_layers - 1 and config.point is None
        x = text_block_forward(graph, read, c, i, x, attend, rows if last else None)
    if config.point:
        token_outputs(graph, read, config, x)
        x = graph.gather(x, rows, axis=1)  # (1,N,D)
    x = graph.rms_norm(x, f"{TEXT}ln_f", read(f"{TEXT}ln_f.weight"), c.norm_eps)
    x = graph.reshape(x, -1, c.hidden_size)
    logits = graph.linear(x, "lm_head", read(HEAD), head=True)  # (N,vocabulary)
    if config.point:
        logits = graph.concat(logits, graph.linear(x, "lm_head_extra", read(EXTRA_HEAD), head=True), axis=-1)
    logits = graph.to_fp32(logits)
    if graph.precision.chooses:
        choice_outputs(graph, logits, asked, config.logits)
    graph.output(logits, "logits", TensorProto.FLOAT, ["N", config.logits])


def rotary_layers(c: TextConfig) -> list[int]:
    """One layer for each table of rotary angles that the model has."""
    return [i for i in (_plain_layer(c), _scaled_layer(c)) if i >= 0]


def rotary_layer(c: TextConfig, i: int) -> int:
    """The one of ``rotary_layers`` whose angles layer i has."""
    return _scaled_layer(c) if c.yarn and i in c.yarn_layers else _plain_layer(c)


def _scaled_layer(c: TextConfig) -> int:
    """A layer that stands for all with scaled rotary frequencies, or -1."""
    return min(c.yarn_layers, default=-1) if c.yarn else -1


def _plain_layer(c: TextConfig) -> int:
    """A layer that stands for all with plain rotary frequencies, or -1."""
    return next((i for i in range(c.num_layers) if not (c.yarn and i in c.yarn_layers)), -1)


def visibility(graph: Graph, limit: Value, past_len: Value, past: Value, positions: Value) -> Value:
    """0 where token t may see position s, -1e9 elsewhere: (1,1,T,S).

    Cached slots hold positions 0 ... past_len - 1, slots after that hold nothing; new token j is at position
    past_len + j.
    """
    slots = graph.arange(graph.length(past, 1))  # (P,)
    filled = graph.op("Less", slots, past_len)
    slots = graph.op("Where", filled, slots, graph.integer(2**31 - 1))
    fresh = graph.add(graph.arange(graph.length(positions, 0)), past_len)  # (T,)
    at = graph.concat(slots, fresh, axis=0)  # (S,)
    seen = graph.op("Less", at, graph.op("Unsqueeze", limit, graph.ints(1)))  # (T,S)
    bias = graph.op("Where", seen, graph.real(0.0), graph.real(-1e9))
    return graph.op("Unsqueeze", bias, graph.ints(0, 1))


def rotary_table(graph: Graph, c: TextConfig, layer: int, positions: Value) -> Rotary:
    """Cosines and sines (T,1,K) of the angles position * frequency, the half repeated, in fp32."""
    frequencies, factor = c.inverse_frequencies(layer)
    table = graph.fp32_weight(f"rotary_{layer}", np.concatenate([frequencies, frequencies])[None, None])
    at = graph.op("Unsqueeze", graph.cast(positions, TensorProto.FLOAT), graph.ints(1, 2))  # (T,1,1)
    angles = graph.mul(at, table)
    cosine, sine = graph.op("Cos", angles), graph.op("Sin", angles)
    if factor != 1.0:
        cosine, sine = (graph.mul(v, graph.real(factor)) for v in (cosine, sine))
    return graph.to_activations(cosine), graph.to_activations(sine)


def text_block_forward(
    graph: Graph,
    read: Read,
    c: TextConfig,
    i: int,
    x: Value,
    attend: Attend,
    rows: Value | None = None,
) -> Value:
    """Block i; x (1,T,D) -> (1,T,D), or with ``rows`` (N,) -> (1,N,D).

    Pre-norm: x + f(norm(x)); with norm_after: x + norm(f(x)), the same tensors.
    """
    name = text_block(i)

    def norm(part: str, x: Value) -> Value:
        return graph.rms_norm(x, f"{name}{part}", read(f"{name}{part}.weight"), c.norm_eps)

    h = graph.to_activations(x) if c.norm_after else norm("attn_norm", x)
    h = attend(i, h, rows)
    x = x if rows is None else graph.gather(x, rows, axis=1)
    x = graph.residual_add(x, norm("attn_norm", h) if c.norm_after else h)
    h = graph.to_activations(x) if c.norm_after else norm("ff_norm", x)
    h = feed_forward(graph, read, c, f"{name}mlp.", h)
    return graph.residual_add(x, norm("ff_norm", h) if c.norm_after else h)


def self_attention(
    graph: Graph,
    read: Read,
    c: TextConfig,
    name: str,
    x: Value,
    rotary: Rotary,
    bias: Value,
    past: list[Value],
    rows: Value | None,
) -> tuple[Value, Value, Value]:
    """Grouped-query attention over the cache and the new tokens; x (1,T,D) -> (1,T,D), keys, values.

    With ``rows``, only these tokens attend to them.
    """
    q_size, kv_size = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    fused_bias = read(f"{name}att_proj.bias") if c.qkv_bias else None
    sizes = (q_size, kv_size, kv_size)
    q, k, v = graph.linear_parts(x, f"{name}att_proj", read(f"{name}att_proj.weight"), sizes, fused_bias)
    q = query_key_norm(graph, read, c, f"{name}q_norm", q, c.num_heads)  # (1,T,H,K)
    k = query_key_norm(graph, read, c, f"{name}k_norm", k, c.num_kv_heads)  # (1,T,G,K)
    v = graph.reshape(v, 0, 0, c.num_kv_heads, c.head_dim)
    q, k = rotate(graph, q, rotary, c.head_dim), rotate(graph, k, rotary, c.head_dim)
    q = q if rows is None else graph.gather(q, rows, axis=1)
    q = graph.transpose(q, 0, 2, 1, 3)  # (1,H,T,K)
    keys = graph.transpose(graph.concat(past[0], k, axis=1), 0, 2, 1, 3)  # (1,G,S,K)
    values = graph.transpose(graph.concat(past[1], v, axis=1), 0, 2, 1, 3)
    if graph.precision.grouped:  # the heads that share keys as rows of one product
        q = graph.reshape(q, 0, c.num_kv_heads, -1, c.head_dim)  # (1,G,H/G*T,K)
    else:
        keys, values = all_heads(graph, keys, c), all_heads(graph, values, c)  # (1,H,S,K)
    h = graph.attention(q, keys, values, c.head_dim, bias)
    h = graph.reshape(h, 0, c.num_heads, -1, c.head_dim)  # (1,H,T,K)
    h = graph.reshape(graph.transpose(h, 0, 2, 1, 3), 0, 0, q_size)
    return graph.linear(h, f"{name}attn_out", read(f"{name}attn_out.weight")), k, v


def query_key_norm(graph: Graph, read: Read, c: TextConfig, name: str, x: Value, heads: int) -> Value:
    """Norm of each head (Qwen3) or of the whole projection (OLMo): (1,T,heads*K) -> (1,T,heads,K)."""
    if c.qk_norm == "full":
        x = graph.rms_norm(x, name, read(f"{name}.weight"), c.norm_eps)
    x = graph.reshape(x, 0, 0, heads, c.head_dim)
    if c.qk_norm == "head":
        x = graph.rms_norm(x, name, read(f"{name}.weight"), c.norm_eps)
    return x


def rotate(graph: Graph, x: Value, rotary: Rotary, head_dim: int) -> Value:
    """Rotary embedding, Llama's half-split form; x (1,T,heads,K)."""
    first, second = graph.split(x, head_dim // 2, head_dim // 2)
    turned = graph.concat(graph.op("Neg", second), first, axis=-1)
    return graph.add(graph.mul(x, rotary[0]), graph.mul(turned, rotary[1]))


def all_heads(graph: Graph, x: Value, c: TextConfig) -> Value:
    """(1,G,S,K) -> (1,H,S,K): each key-value head repeated for the query heads that share it."""
    repeat = c.num_heads // c.num_kv_heads
    if repeat == 1:
        return x
    x = graph.op("Unsqueeze", x, graph.ints(2))  # (1,G,1,S,K)
    x = graph.op("Expand", x, graph.ints(1, 1, repeat, 1, 1))
    shape = graph.concat(
        graph.ints(1, c.num_heads), graph.op("Shape", x, start=3, end=4), graph.ints(c.head_dim), axis=0
    )
    return graph.op("Reshape", x, shape)


def feed_forward(graph: Graph, read: Read, c: TextConfig, name: str, x: Value) -> Value:
    """w_out(silu(gate) * up); the fused projection holds up first, then gate."""
    if c.experts is not None:
        return mixture_of_experts(graph, read, c, name, x)
    sizes = (c.intermediate_size, c.intermediate_size)
    up, gate = graph.linear_parts(x, f"{name}ff_proj", read(f"{name}ff_proj.weight"), sizes)
    h = graph.mul(graph.silu(gate), up)
    return graph.linear(h, f"{name}ff_out", read(f"{name}ff_out.weight"))
