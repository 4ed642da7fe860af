"""The vision graph: crops of one image -> one embedding per image token.

Sizes in the comments: C crops, N patches per crop, V width of the tower, F width of the joined taps,
M image tokens, W patches per pooling window, D width of the text model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from molmo_ros.datatypes import Float32
from molmo_ros.network.config import ConnectorConfig, ModelConfig, VisionConfig
from molmo_ros.network.fused import FusedGraph
from molmo_ros.network.graph import Graph, Value
from molmo_ros.network.patch_pointer import patch_outputs
from molmo_ros.network.weights import PAD_EMBED, POOLING, PROJECTOR, VIT, vit_block

Read = Callable[[str], Float32]


def build_vision(
    graph: Graph,
    read: Read,
    config: ModelConfig,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    window: int,
) -> None:
    """crops (C,S,S,3) uint8, pooling (M,W) int64 -> image_embeds (M,D) fp32.

    v1: crops are float32, still 0..255, and padding (C,N) int64 says which patches show padding.
    MolmoPoint: two more outputs, see ``patch_outputs``.
    ``mean`` and ``std`` are of pixels scaled to 0..1; the normalisation is folded into the patch embedding.
    """
    vision = config.vision
    kind = TensorProto.FLOAT if vision.clip else TensorProto.UINT8
    crops = graph.input("crops", kind, ["C", vision.image_size, vision.image_size, 3])
    pooling = graph.input("pooling", TensorProto.INT64, ["M", window])
    taps = vision_tower(graph, read, vision, crops, mean, std)
    with graph.fp32_region():
        patches = graph.concat(*taps, axis=-1)  # (C,N,F)
        if config.connector.pad_embed:
            padding = graph.input("padding", TensorProto.INT64, ["C", vision.grid**2])
            patches = mark_padding(graph, read, patches, padding)
        patches = graph.reshape(patches, -1, vision.tap_size)  # (C*N,F)
        windows, valid = gather_windows(graph, patches, pooling)  # (M,W,F), (M,W)
        pooled = pool_windows(graph, read, config.connector, windows, valid, window)  # (M,V)
        if config.point:
            patch_outputs(graph, read, config, windows)
        embeds = graph.to_fp32(project(graph, read, pooled))  # (M,D)
    graph.output(embeds, "image_embeds", TensorProto.FLOAT, ["M", config.text.hidden_size])


def vision_tower(
    graph: Graph,
    read: Read,
    c: VisionConfig,
    crops: Value,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> list[Value]:
    """crops (C,S,S,3) uint8 -> the tapped hidden states, each (C,N,V)."""
    x = patch_embedding(graph, read, c, crops, mean, std)
    if c.clip:
        x = prepend_class_token(graph, read, c, x)
    x = graph.add(x, graph.weight(f"{VIT}positional_embedding", read(f"{VIT}positional_embedding")))
    if c.clip:
        x = _layer_norm(graph, read, f"{VIT}pre_ln", x, c.norm_eps)
    x = graph.to_fp32(x) if graph.precision.is_fp16 else x
    x = graph.reshape(x, -1, c.hidden_size)  # (C*N,V): of two dimensions, a product takes its bias along
    tokens = c.grid**2 + c.clip
    hidden = []
    for layer in range(c.num_layers):
        x = vision_block(graph, read, c, vit_block(layer), x, tokens)
        hidden.append(x)
    taps = [graph.reshape(hidden[layer], -1, tokens, c.hidden_size) for layer in c.taps]
    # the class token is no longer needed
    return [graph.rows(tap, 1, 1 + c.grid**2) for tap in taps] if c.clip else taps


def prepend_class_token(graph: Graph, read: Read, c: VisionConfig, x: Value) -> Value:
    """x (C,N,V) -> (C,1+N,V)"""
    token = graph.weight(f"{VIT}class_embedding", read(f"{VIT}class_embedding"))
    shape = graph.concat(graph.op("Shape", x, start=0, end=1), graph.ints(1, c.hidden_size), axis=0)
    return graph.concat(graph.op("Expand", token, shape), x, axis=1)


def mark_padding(graph: Graph, read: Read, patches: Value, padding: Value) -> Value:
    """Add a learned vector to patches (C,N,F) that show padding: 0 none, 1 nothing else, 2 some of it."""
    vectors = read(PAD_EMBED)  # (2,F)
    table = np.concatenate([np.zeros_like(vectors[:1]), vectors])
    return graph.add(patches, graph.gather(graph.weight(PAD_EMBED, table), padding))


def patch_embedding(
    graph: Graph,
    read: Read,
    c: VisionConfig,
    crops: Value,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Value:
    """crops (C,S,S,3) -> (C,N,V): each patch flattened as (row, column, channel), then one matrix.

    With W' = W / (255 std) and b' = b - sum(W mean / std) the matrix takes raw bytes.
    """
    weight = read(f"{VIT}patch_embedding.weight")
    bias = np.zeros(len(weight), np.float32) if c.clip else read(f"{VIT}patch_embedding.bias")
    pixels = c.patch_size**2
    scale = np.tile(1 / (255 * np.array(std)), pixels)
    shift = np.tile(np.array(mean) / np.array(std), pixels)
    folded_bias = bias - (weight.astype(np.float64) @ shift)
    x = graph.cast(crops, graph.precision.activations)
    x = graph.reshape(x, 0, c.grid, c.patch_size, c.grid, c.patch_size * 3)  # (C,g,p,g,p*3)
    x = graph.reshape(graph.transpose(x, 0, 1, 3, 2, 4), 0, c.grid**2, pixels * 3)  # (C,N,p*p*3)
    return graph.linear(
        x, f"{VIT}patch_embedding", (weight * scale).astype(np.float32), folded_bias.astype(np.float32)
    )


def vision_block(graph: Graph, read: Read, c: VisionConfig, name: str, x: Value, tokens: int) -> Value:
    """One pre-norm transformer block with full attention within each crop's N ``tokens``; x (C*N,V)."""
    h = _layer_norm(graph, read, f"{name}attention_norm", x, c.norm_eps)
    lengths = tokens, tokens
    h = cross_attention(graph, read, f"{name}attention.", h, h, lengths, c.num_heads, c.head_dim, None)
    x = graph.residual_add(x, h)
    h = _layer_norm(graph, read, f"{name}ffn_norm", x, c.norm_eps)
    h = _linear(graph, read, f"{name}feed_forward.w1", h)
    h = graph.gelu_tanh(h) if c.activation == "gelu_tanh" else graph.quick_gelu(h)
    return graph.residual_add(x, _linear(graph, read, f"{name}feed_forward.w2", h))


def cross_attention(
    graph: Graph,
    read: Read,
    name: str,
    queries: Value,
    keys: Value,
    lengths: tuple[int, int],
    heads: int,
    head_dim: int,
    bias: Value | None,
    *,
    project: bool = True,
) -> Value:
    """queries (B*T,.) attend to keys (B*P,.) -> (B*T,.); lengths (T,P); bias broadcasts to (B,heads,T,P)."""

    if bias is None and isinstance(graph, FusedGraph) and graph.precision.whole_attention:
        parts = ("wq", queries, lengths[0]), ("wk", keys, lengths[1]), ("wv", keys, lengths[1])
        q, k, v = (
            graph.reshape(_linear(graph, read, f"{name}{part}", x), -1, length, heads * head_dim)
            for part, x, length in parts
        )
        h = graph.reshape(graph.full_attention(q, k, v, heads), -1, heads * head_dim)
        return _linear(graph, read, f"{name}wo", h) if project else h

    def split_heads(projection: str, x: Value, length: int) -> Value:
        h = graph.reshape(_linear(graph, read, f"{name}{projection}", x), -1, length, heads, head_dim)
        return graph.transpose(h, 0, 2, 1, 3)  # (B,heads,T,head_dim)

    q = split_heads("wq", queries, lengths[0])
    k, v = (split_heads(part, keys, lengths[1]) for part in ("wk", "wv"))
    h = graph.transpose(graph.attention(q, k, v, head_dim, bias), 0, 2, 1, 3)  # (B,T,heads,head_dim)
    h = graph.reshape(h, -1, heads * head_dim)
    return _linear(graph, read, f"{name}wo", h) if project else h


def gather_windows(graph: Graph, patches: Value, pooling: Value) -> tuple[Value, Value]:
    """patches (C*N,F), pooling (M,W) with -1 for padding -> (M,W,F), 0 for padding; (M,W) 1 where valid."""
    valid = graph.cast(graph.op("GreaterOrEqual", pooling, graph.integer(0)), TensorProto.FLOAT)
    index = graph.op("Max", pooling, graph.integer(0))
    mask = graph.to_activations(graph.op("Unsqueeze", valid, graph.ints(2)))  # (M,W,1)
    return graph.mul(graph.gather(patches, index), mask), valid


def pool_windows(
    graph: Graph, read: Read, c: ConnectorConfig, windows: Value, valid: Value, window: int
) -> Value:
    """windows (M,W,F) -> (M,V); ``window`` is W.

    The query of a window is the mean of its patches; padding is zero, not counted, and not attended to.
    """
    total = graph.op("ReduceSum", windows, graph.ints(1), keepdims=1)  # (M,1,F)
    count = graph.op("ReduceSum", valid, graph.ints(1), keepdims=1)  # (M,1)
    count = graph.op("Max", graph.op("Unsqueeze", count, graph.ints(2)), graph.real(1.0))
    query = graph.div(total, graph.to_activations(count))  # (M,1,F)
    bias = graph.mul(graph.sub(valid, graph.real(1.0)), graph.real(1e9))  # 0 or -1e9
    bias = graph.op("Unsqueeze", bias, graph.ints(1, 2))  # (M,1,1,W)
    heads, size = c.num_heads, c.head_dim
    return cross_attention(
        graph, read, POOLING, query, windows, (1, window), heads, size, bias, project=c.out_projection
    )


def project(graph: Graph, read: Read, x: Value) -> Value:
    """Gated MLP w2(silu(w1 x) * w3 x); x (M,V) -> (M,D)."""
    gate = graph.silu(_linear(graph, read, f"{PROJECTOR}w1", x, bias=False))
    up = _linear(graph, read, f"{PROJECTOR}w3", x, bias=False)
    return _linear(graph, read, f"{PROJECTOR}w2", graph.mul(gate, up), bias=False)


def _linear(graph: Graph, read: Read, name: str, x: Value, bias: bool = True) -> Value:
    return graph.linear(x, name, read(f"{name}.weight"), read(f"{name}.bias") if bias else None)


def _layer_norm(graph: Graph, read: Read, name: str, x: Value, eps: float) -> Value:
    return graph.layer_norm(x, name, read(f"{name}.weight"), read(f"{name}.bias"), eps)
