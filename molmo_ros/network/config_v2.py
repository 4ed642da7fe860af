"""config.json of Molmo2 and MolmoPoint, in two vocabularies.

That of the released files says vit_config, image_patch_size, vit_layers, rope_scaling ...; that of newer
transformers says vision_config, patch_size, vision_feature_layer, rope_parameters ....
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from molmo_ros.network.config import (
    POINT,
    V2,
    ConnectorConfig,
    Fields,
    ModelConfig,
    PointConfig,
    TextConfig,
    VisionConfig,
    Yarn,
    count,
)


def parse_v2(fields: Fields) -> ModelConfig:
    vision_fields = fields["vit_config"] if "vit_config" in fields else fields["vision_config"]
    return ModelConfig(
        model_type=V2,
        vision=_vision(vision_fields, fields["adapter_config"]),
        connector=_connector(fields["adapter_config"]),
        text=_text(fields["text_config"]),
    )


def parse_point(fields: Fields) -> ModelConfig:
    adapter = fields["adapter_config"]
    # What the released models were built with; nothing else is known to exist.
    built: Fields = {
        "patch_location": "3x3", "no_more_points_class": True, "embed_selected_vit_patch": "linear",
        "embed_location": False, "layer_norm_x": True, "token_prediction_rotary": "one_d",
        "patch_embedding_kind": "image_feature0",
    }  # fmt: skip
    facts = [(name, fields[name], value) for name, value in built.items()] + [
        ("norm_logits", fields.get("norm_logits", True), True),
        ("adapter_config.positional_embeddings", adapter.get("positional_embeddings") or None, None),
        ("attention_pooling_out_layer", adapter.get("attention_pooling_out_layer", False), False),
        ("adapter_config.pooling_attention_mask", adapter.get("pooling_attention_mask", True), True),
    ]
    for name, found, known in facts:
        if found != known:
            raise ValueError(f"{name} is {found!r}, known is {known!r}")
    point = PointConfig(
        embed_size=int(fields["patch_embed_dim"]),
        places=9,
        rope_theta=float(fields["token_prediction_rotary_theta"]),
        sorted_tokens=_when_answering(fields, "mask_patches", "always"),
        sorted_patches=_when_answering(fields, "mask_subpatches", "inference"),
        no_repeats=_when_answering(fields, "mask_repeats", "inference"),
    )
    connector = replace(_connector(adapter), out_projection=False)
    return replace(parse_v2(fields), model_type=POINT, connector=connector, point=point)


def _when_answering(fields: Fields, name: str, default: str) -> bool:
    """Whether a restriction holds for answers; training may have had it as well."""
    return fields.get(name, default) in ("always", "all", "inference")


def _first(fields: Fields, *names: str) -> Any:
    """The field under the first of its names that is present."""
    for name in names:
        if name in fields:
            return fields[name]
    raise KeyError(names[0])


def _vision(fields: Fields, adapter: Fields) -> VisionConfig:
    stored = count(fields["num_hidden_layers"])
    taps = tuple(int(layer) % stored for layer in _first(adapter, "vit_layers", "vision_feature_layer"))
    size = _first(fields, "image_default_input_size", "image_size")
    activations = {"gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
    return VisionConfig(
        image_size=int(size[0] if isinstance(size, list | tuple) else size),
        patch_size=int(_first(fields, "image_patch_size", "patch_size")),
        hidden_size=int(fields["hidden_size"]),
        intermediate_size=int(fields["intermediate_size"]),
        num_heads=int(fields["num_attention_heads"]),
        head_dim=int(fields["head_dim"]),
        num_layers=max(taps) + 1,
        norm_eps=float(fields["layer_norm_eps"]),
        activation=activations[str(fields["hidden_act"])],
        taps=taps,
    )


def _connector(fields: Fields) -> ConnectorConfig:
    return ConnectorConfig(
        hidden_size=int(fields["hidden_size"]),
        num_heads=int(fields["num_attention_heads"]),
        head_dim=int(fields["head_dim"]),
        intermediate_size=int(fields["intermediate_size"]),
    )


def _text(fields: Fields) -> TextConfig:
    layers = count(fields["num_hidden_layers"])
    theta, yarn = _rope(fields)
    scaled = fields.get("rope_scaling_layers")
    qk_norm = {"qwen3": "head", "olmo": "full"}[str(fields["qk_norm_type"])]
    return TextConfig(
        hidden_size=int(fields["hidden_size"]),
        intermediate_size=int(fields["intermediate_size"]),
        num_layers=layers,
        num_heads=int(fields["num_attention_heads"]),
        num_kv_heads=int(fields["num_key_value_heads"]),
        head_dim=int(fields["head_dim"]),
        vocab_size=int(fields["vocab_size"]),
        extra_vocab_size=int(fields["additional_vocab_size"]),
        qkv_bias=bool(_first(fields, "qkv_bias", "attention_bias")),
        qk_norm=qk_norm if fields.get("use_qk_norm", True) else "none",
        norm_after=bool(fields["norm_after"]),
        norm_eps=float(_first(fields, "layer_norm_eps", "rms_norm_eps")),
        rope_theta=theta,
        yarn=yarn,
        yarn_layers=frozenset(range(layers) if scaled is None else scaled),
        max_positions=int(fields["max_position_embeddings"]),
        tied=bool(fields.get("tie_word_embeddings", False)),
    )


def _rope(fields: Fields) -> tuple[float, Yarn | None]:
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    theta = float(rope["rope_theta"] if "rope_theta" in rope else fields["rope_theta"])
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    if kind == "default":
        return theta, None
    if kind != "yarn":
        raise ValueError(f'rope_type "{kind}"; known are default and yarn')
    factor = float(rope["factor"])
    attention = rope.get("attention_factor")
    yarn = Yarn(
        factor=factor,
        original_max_positions=int(rope["original_max_position_embeddings"]),
        attention_factor=float(attention) if attention is not None else 0.1 * math.log(factor) + 1.0,
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        truncate=bool(rope.get("truncate", True)),
    )
    return theta, yarn
