"""What MolmoPoint's graphs output in addition to those of Molmo2, so that the host can point.

It points by choosing an image token, one of its patches, and a place in that patch. Everything that
has weights is in the graphs; the host rotates keys and queries, and multiplies them (``patch_scores``).
All of it is fp32 and never rounded: a point is as exact as these numbers.

Sizes in the comments: M image tokens, W patches per token, F width of the joined taps, T tokens, D width of
the text model, E width of keys and queries.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from molmo_ros.datatypes import Float32
from molmo_ros.network.config import ModelConfig
from molmo_ros.network.graph import Graph, Value
from molmo_ros.network.weights import BUILD_VIT, POINT_PREDICTOR

Read = Callable[[str], Float32]


def patch_outputs(graph: Graph, read: Read, config: ModelConfig, windows: Value) -> None:
    """windows (M,W,F), the features of the patches of each image token, 0 for padding -> patch_embeds
    (M,W,D), what the model reads after it has chosen a patch; patch_keys (M,W,E).
    """
    assert config.point is not None
    windows = graph.to_fp32(windows)
    window = ["M", None]
    embeds = _linear(graph, read, BUILD_VIT, windows)
    graph.output(embeds, "patch_embeds", TensorProto.FLOAT, [*window, config.text.hidden_size])
    keys = _linear(graph, read, f"{POINT_PREDICTOR}subpatch_k", windows)
    graph.output(keys, "patch_keys", TensorProto.FLOAT, [*window, config.point.embed_size])


def token_outputs(graph: Graph, read: Read, config: ModelConfig, x: Value) -> None:
    """x (1,T,D), the last layer's sum before the final norm -> pointing (T,3E+places): token query, token
    key, patch query, scores of the places, in this order.

    The places read x itself, as in the released code, all others its norm.
    """
    assert config.point is not None
    c, name = config.point, POINT_PREDICTOR
    normal = graph.rms_norm(x, f"{name}x_norm", read(f"{name}x_norm.weight"), config.text.norm_eps)
    normal, x = graph.to_fp32(normal), graph.to_fp32(x)
    parts = [_linear(graph, read, f"{name}{part}", normal) for part in ("patch_q", "patch_k", "subpatch_q")]
    parts.append(_linear(graph, read, f"{name}subpatch_loc_k", x))
    width = 3 * c.embed_size + c.places
    pointing = graph.reshape(graph.concat(*parts, axis=-1), -1, width)
    graph.output(pointing, "pointing", TensorProto.FLOAT, ["T", width])


def _linear(graph: Graph, read: Read, name: str, x: Value) -> Value:
    """x (..., in) fp32 -> (..., out), not rounded in any precision."""
    weight = np.ascontiguousarray(read(f"{name}.weight").T)
    product = graph.matmul(x, graph.fp32_weight(f"{name}.weight", weight))
    return graph.add(product, graph.fp32_weight(f"{name}.bias", read(f"{name}.bias")))
