"""The released key names of a checkpoint, with the shape each must have.

Fused tensors stay fused (q, k, v in ``att_proj``; up, then gate in ``ff_proj``): one matrix product serves
them all.
"""

from __future__ import annotations

import re

from molmo_ros.network.config import ConnectorConfig, ModelConfig, TextConfig, VisionConfig

Shapes = dict[str, tuple[int, ...]]

VIT = "model.vision_backbone.image_vit."
POOLING = "model.vision_backbone.image_pooling_2d."
PROJECTOR = "model.vision_backbone.image_projector."
TEXT = "model.transformer."
HEAD = "lm_head.weight"

_VIT_BLOCK = re.compile(re.escape(VIT) + r"transformer\.resblocks\.([0-9]+)\.")


def vit_block(layer: int) -> str:
    return f"{VIT}transformer.resblocks.{layer}."


def text_block(layer: int) -> str:
    return f"{TEXT}blocks.{layer}."


def expected_shapes(config: ModelConfig) -> Shapes:
    """Every tensor that the network reads: name -> shape."""
    return {
        **_vision_shapes(config.vision),
        **_connector_shapes(config.connector, config.vision.tap_size, config.text.hidden_size),
        **_text_shapes(config.text),
    }


def is_unused(name: str, config: ModelConfig) -> bool:
    """True for tensors that a checkpoint may store although nothing reads them: blocks above the taps."""
    match = _VIT_BLOCK.match(name)
    return match is not None and int(match[1]) >= config.vision.num_layers


def _linear(name: str, out: int, into: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into), **({f"{name}.bias": (out,)} if bias else {})}


def _norm(name: str, size: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (size,), **({f"{name}.bias": (size,)} if bias else {})}


def _vision_shapes(c: VisionConfig) -> Shapes:
    width = c.num_heads * c.head_dim
    shapes: Shapes = {f"{VIT}positional_embedding": (c.grid**2, c.hidden_size)}
    shapes |= _linear(f"{VIT}patch_embedding", c.hidden_size, 3 * c.patch_size**2)
    for layer in range(c.num_layers):
        block = vit_block(layer)
        shapes |= _norm(f"{block}attention_norm", c.hidden_size)
        for name in ("wq", "wk", "wv"):
            shapes |= _linear(f"{block}attention.{name}", width, c.hidden_size)
        shapes |= _linear(f"{block}attention.wo", c.hidden_size, width)
        shapes |= _norm(f"{block}ffn_norm", c.hidden_size)
        shapes |= _linear(f"{block}feed_forward.w1", c.intermediate_size, c.hidden_size)
        shapes |= _linear(f"{block}feed_forward.w2", c.hidden_size, c.intermediate_size)
    return shapes


def _connector_shapes(c: ConnectorConfig, tap_size: int, text_size: int) -> Shapes:
    width = c.num_heads * c.head_dim
    shapes: Shapes = {}
    for name in ("wq", "wk", "wv"):
        shapes |= _linear(f"{POOLING}{name}", width, tap_size)
    shapes |= _linear(f"{POOLING}wo", c.hidden_size, width)
    for name in ("w1", "w3"):
        shapes |= _linear(f"{PROJECTOR}{name}", c.intermediate_size, c.hidden_size, bias=False)
    return shapes | _linear(f"{PROJECTOR}w2", text_size, c.intermediate_size, bias=False)


def _text_shapes(c: TextConfig) -> Shapes:
    q_size, kv_size = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    shapes: Shapes = {f"{TEXT}wte.embedding": (c.vocab_size, c.hidden_size)}
    if c.extra_vocab_size:
        shapes[f"{TEXT}wte.new_embedding"] = (c.extra_vocab_size, c.hidden_size)
    for layer in range(c.num_layers):
        block = text_block(layer)
        shapes |= _norm(f"{block}attn_norm", c.hidden_size, bias=False)
        shapes |= _linear(f"{block}self_attn.att_proj", q_size + 2 * kv_size, c.hidden_size, c.qkv_bias)
        shapes |= _linear(f"{block}self_attn.attn_out", c.hidden_size, q_size, bias=False)
        if c.qk_norm != "none":
            full = c.qk_norm == "full"
            shapes |= _norm(f"{block}self_attn.q_norm", q_size if full else c.head_dim, bias=False)
            shapes |= _norm(f"{block}self_attn.k_norm", kv_size if full else c.head_dim, bias=False)
        shapes |= _norm(f"{block}ff_norm", c.hidden_size, bias=False)
        shapes |= _linear(f"{block}mlp.ff_proj", 2 * c.intermediate_size, c.hidden_size, bias=False)
        shapes |= _linear(f"{block}mlp.ff_out", c.hidden_size, c.intermediate_size, bias=False)
    shapes |= _norm(f"{TEXT}ln_f", c.hidden_size, bias=False)
    return shapes | {HEAD: (c.vocab_size, c.hidden_size)}
