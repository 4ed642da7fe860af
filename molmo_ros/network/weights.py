"""The key names of a checkpoint, with the shape each must have.

The network asks for tensors by the names that Molmo2 was released with; a layout says under which name, and
how split, a generation stores each. Fused tensors stay fused (q, k, v in ``att_proj``; up, then gate in
``ff_proj``): one matrix product serves them all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from molmo_ros.network.config import (
    POINT,
    V1,
    ConnectorConfig,
    ModelConfig,
    PointConfig,
    TextConfig,
    VisionConfig,
)

Shapes = dict[str, tuple[int, ...]]

VIT = "model.vision_backbone.image_vit."
POOLING = "model.vision_backbone.image_pooling_2d."
PROJECTOR = "model.vision_backbone.image_projector."
PAD_EMBED = "model.vision_backbone.pad_embed"
TEXT = "model.transformer."
HEAD = "lm_head.weight"
EXTRA_HEAD = "lm_head.extra_weight"
TIED = ((HEAD, f"{TEXT}wte.embedding"), (EXTRA_HEAD, f"{TEXT}wte.new_embedding"))
BUILD_VIT = "model.build_vit_embedding"
POINT_PREDICTOR = "model.point_predictor."
NO_POINT = f"{POINT_PREDICTOR}add_no_point_class_embed.vector"

_VIT_BLOCK = re.compile(r"resblocks\.([0-9]+)\.")
_EXPERTS = re.compile(r"(.*)\.experts\.(gate_proj|up_proj|down_proj)\.weight")


@dataclass(frozen=True)
class Stored:
    """Where a tensor of the network lies: one stored tensor, or one per expert, to be stacked.

    ``shape`` is that of each stored tensor. With one name and ``experts``, the matrices of all experts are
    stacked; ``transposed``: each has to be transposed.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    experts: int = 0
    transposed: bool = False


Layout = Mapping[str, Stored]


def vit_block(layer: int) -> str:
    return f"{VIT}transformer.resblocks.{layer}."


def text_block(layer: int) -> str:
    return f"{TEXT}blocks.{layer}."


def network_shapes(config: ModelConfig) -> Shapes:
    """Every tensor that the network reads: its name there -> shape."""
    return {
        **_vision_shapes(config.vision),
        **_connector_shapes(config.connector, config.vision.tap_size, config.text.hidden_size),
        **_text_shapes(config.text),
        **(_point_shapes(config.point, config) if config.point else {}),
    }


def layouts(config: ModelConfig) -> tuple[Layout, ...]:
    """All ways in which checkpoints of this configuration are stored, the released one first."""
    shapes = network_shapes(config)
    if config.text.experts:
        return (
            {name: _released_mixture(name, shape) for name, shape in shapes.items()},
            {
                name: _released_mixture(name, shape, head="model.transformer.ff_out.weight")
                for name, shape in shapes.items()
            },
            {name: _training_mixture(name, shape) for name, shape in shapes.items()},
        )
    rename = {V1: _dense_v1, POINT: _point}.get(config.model_type, str)
    stored = {name: Stored((rename(name),), shape) for name, shape in shapes.items()}
    return (stored, *_tied_layouts(stored)) if config.text.tied else (stored,)


def _tied_layouts(stored: Layout) -> tuple[Layout, ...]:
    """Head and embedding are one table; files differ in which of the two names they use."""
    tables = [(head, table) for head, table in TIED if head in stored and table in stored]
    by_embedding = {head: stored[table] for head, table in tables}
    by_head = {table: stored[head] for head, table in tables}
    return {**stored, **by_embedding}, {**stored, **by_head}


def stored_shapes(layout: Layout) -> Shapes:
    """Every tensor that files of a layout must hold: name -> shape."""
    return {name: stored.shape for stored in layout.values() for name in stored.names}


def expected_shapes(config: ModelConfig) -> Shapes:
    """Every tensor that the files of a released checkpoint must hold: name -> shape."""
    return stored_shapes(layouts(config)[0])


def is_unused(name: str, config: ModelConfig) -> bool:
    """True for tensors that a checkpoint may store although nothing reads them: blocks after the taps."""
    match = _VIT_BLOCK.search(name)
    return match is not None and int(match[1]) >= config.vision.num_layers


def _dense_v1(name: str) -> str:
    """Molmo v1 has no sub-modules for attention and MLP inside a block."""
    if name == HEAD:
        return f"{TEXT}ff_out.weight"
    return name.replace(".self_attn.", ".").replace(".mlp.", ".")


def _point(name: str) -> str:
    """MolmoPoint stores tower and connector separately, and the head as two bare tables."""
    for ours, theirs in (
        (VIT, "model.vit."), (POOLING, "model.connector.image_pooling_2d."),
        (PROJECTOR, "model.connector.image_projector."), (EXTRA_HEAD, "lm_head.new_output_embeddings"),
        (HEAD, "lm_head.output_embeddings"),
    ):  # fmt: skip
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def _released_mixture(name: str, shape: tuple[int, ...], head: str = HEAD) -> Stored:
    """MolmoE: each expert has its own three tensors."""
    if name == HEAD:
        return Stored((head,), shape)
    if match := _EXPERTS.fullmatch(name):
        names = tuple(f"{match[1]}.experts.{e}.{match[2]}.weight" for e in range(shape[0]))
        return Stored(names, shape[1:], shape[0])
    name = re.sub(r"\.self_attn\.|\.(?=attn_norm)", ".attn.", name)
    return Stored((re.sub(r"\.(?=ff_norm)", ".mlp.", name),), shape)


def _training_mixture(name: str, shape: tuple[int, ...]) -> Stored:
    """MolmoE as its training code writes it: the experts of a layer stacked."""
    if match := _EXPERTS.fullmatch(name):
        part = {"gate_proj": "w1", "up_proj": "v1", "down_proj": "w2"}[match[2]]
        transposed = match[2] == "down_proj"
        rows, columns = (shape[2], shape[1]) if transposed else (shape[1], shape[2])
        stored = f"{match[1].removesuffix('.mlp')}.ffn.experts.mlp.{part}"
        return Stored((stored,), (shape[0] * rows, columns), shape[0], transposed)
    return Stored((_dense_v1(name.replace(".mlp.gate.", ".ffn.router.layer.")),), shape)


def _linear(name: str, out: int, into: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into), **({f"{name}.bias": (out,)} if bias else {})}


def _norm(name: str, size: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (size,), **({f"{name}.bias": (size,)} if bias else {})}


def _vision_shapes(c: VisionConfig) -> Shapes:
    width = c.num_heads * c.head_dim
    shapes: Shapes = {f"{VIT}positional_embedding": (c.grid**2 + c.clip, c.hidden_size)}
    shapes |= _linear(f"{VIT}patch_embedding", c.hidden_size, 3 * c.patch_size**2, bias=not c.clip)
    if c.clip:
        shapes |= {f"{VIT}class_embedding": (c.hidden_size,), **_norm(f"{VIT}pre_ln", c.hidden_size)}
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
    shapes: Shapes = {PAD_EMBED: (2, tap_size)} if c.pad_embed else {}
    for name in ("wq", "wk", "wv"):
        shapes |= _linear(f"{POOLING}{name}", width, tap_size)
    if c.out_projection:
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
        shapes |= _mlp_shapes(f"{block}mlp.", c)
    shapes |= _norm(f"{TEXT}ln_f", c.hidden_size, bias=False)
    return shapes | {HEAD: (c.vocab_size, c.hidden_size)}


def _point_shapes(c: PointConfig, config: ModelConfig) -> Shapes:
    hidden, tap, name = config.text.hidden_size, config.vision.tap_size, POINT_PREDICTOR
    return {
        EXTRA_HEAD: (config.text.extra_vocab_size, hidden),
        **_linear(BUILD_VIT, hidden, tap),
        **_norm(f"{name}x_norm", hidden, bias=False),
        **_linear(f"{name}patch_q", c.embed_size, hidden),
        **_linear(f"{name}patch_k", c.embed_size, hidden),
        **_linear(f"{name}subpatch_q", c.embed_size, hidden),
        **_linear(f"{name}subpatch_k", c.embed_size, tap),
        **_linear(f"{name}subpatch_loc_k", c.places, hidden),
        NO_POINT: (c.embed_size,),
    }


def _mlp_shapes(name: str, c: TextConfig) -> Shapes:
    wide, hidden = c.intermediate_size, c.hidden_size
    if c.experts is None:
        up = _linear(f"{name}ff_proj", 2 * wide, hidden, bias=False)
        return up | _linear(f"{name}ff_out", hidden, wide, bias=False)
    count = c.experts.count
    return {
        f"{name}gate.weight": (count, hidden),
        f"{name}experts.gate_proj.weight": (count, wide, hidden),
        f"{name}experts.up_proj.weight": (count, wide, hidden),
        f"{name}experts.down_proj.weight": (count, hidden, wide),
    }
