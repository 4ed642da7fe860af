"""config.json of Molmo v1, in its two vocabularies.

The dense models (7B-D, 7B-O, 72B) use that of transformers (hidden_size ...), MolmoE that of its training
code (d_model ...). Neither says anything dependable about the image side, which was fixed in the code that
was released beside the weights: CLIP ViT-L/14 at 336 px. A file may state it in a ``vision_backbone`` record
with the names of the training code; what that leaves out is as released.
"""

from __future__ import annotations

from molmo_ros.network.config import (
    V1,
    ConnectorConfig,
    Experts,
    Fields,
    ModelConfig,
    TextConfig,
    VisionConfig,
    count,
)

_CLIP: Fields = {
    "image_default_input_size": [336, 336], "image_patch_size": 14, "image_emb_dim": 1024,
    "image_num_heads": 16, "image_head_dim": 64, "image_num_layers": 23, "image_mlp_dim": 4096,
    "image_mlp_activations": "quick_gelu", "image_norm_eps": 1e-5,
}  # fmt: skip
_VIT_LAYERS = (-2, -9)
_EXTRA_VOCABULARY = 128

# Switches of the training code that no released model turns on: name -> the value that means off.
_OFF: Fields = {
    "clip_qkv": None, "weight_tying": False, "scale_logits": False, "normalize_input_embeds": False,
    "moe_shared_expert": False, "include_bias": False,
}  # fmt: skip


def parse_v1(fields: Fields) -> ModelConfig:
    """Raises KeyError, TypeError or ValueError, as the caller expects."""
    for name, off in _OFF.items():
        if fields.get(name, off) not in (off, None):
            raise ValueError(f"{name} is {fields[name]!r}, which no released Molmo uses")
    if str(fields.get("layer_norm_type", "rms")) != "rms":
        raise ValueError(f"layer_norm_type is {fields['layer_norm_type']!r}, known is rms")
    text = _text_of_training(fields) if "d_model" in fields else _text(fields)
    clip = {**_CLIP, **(fields.get("vision_backbone") or {})}
    gated = text.intermediate_size  # the connector's MLP is as wide as that of the text model
    return ModelConfig(V1, _vision(clip, fields), _connector(clip, gated), text)


def _vision(clip: Fields, fields: Fields) -> VisionConfig:
    stored = count(clip["image_num_layers"])
    taps = tuple(int(layer) % stored for layer in fields.get("vit_layers") or _VIT_LAYERS)
    size = clip["image_default_input_size"]
    return VisionConfig(
        image_size=int(size[0] if isinstance(size, list | tuple) else size),
        patch_size=int(clip["image_patch_size"]),
        hidden_size=int(clip["image_emb_dim"]),
        intermediate_size=int(clip["image_mlp_dim"]),
        num_heads=int(clip["image_num_heads"]),
        head_dim=int(clip["image_head_dim"]),
        num_layers=max(taps) + 1,
        norm_eps=float(clip["image_norm_eps"]),
        activation={"quick_gelu": "quick_gelu"}[str(clip["image_mlp_activations"])],
        taps=taps,
        clip=True,
    )


def _connector(clip: Fields, intermediate_size: int) -> ConnectorConfig:
    return ConnectorConfig(
        hidden_size=int(clip["image_emb_dim"]),
        num_heads=int(clip["image_num_heads"]),
        head_dim=int(clip["image_head_dim"]),
        intermediate_size=intermediate_size,
        pad_embed=True,
    )


def _text(fields: Fields) -> TextConfig:
    """The dense models; their intermediate_size counts gate and up together."""
    hidden, heads = int(fields["hidden_size"]), int(fields["num_attention_heads"])
    return TextConfig(
        hidden_size=hidden,
        intermediate_size=int(fields["intermediate_size"]) // 2,
        num_layers=count(fields["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=int(fields.get("num_key_value_heads") or heads),
        head_dim=hidden // heads,
        vocab_size=int(fields.get("embedding_size") or fields["vocab_size"]),
        extra_vocab_size=_EXTRA_VOCABULARY,
        qkv_bias=bool(fields["qkv_bias"]),
        qk_norm="full" if fields["attention_layer_norm"] else "none",
        norm_after=bool(fields["norm_after"]),
        norm_eps=float(fields["layer_norm_eps"]),
        rope_theta=float(fields["rope_theta"]),
        yarn=None,
        yarn_layers=frozenset(),
        max_positions=int(fields["max_position_embeddings"]),
    )


def _text_of_training(fields: Fields) -> TextConfig:
    """MolmoE; the width of its MLP counts gate and up together."""
    hidden, heads = int(fields["d_model"]), int(fields["n_heads"])
    fused = fields.get("mlp_hidden_size") or int(fields["mlp_ratio"]) * hidden
    mixture = str(fields.get("block_type", "sequential")) == "moe"
    return TextConfig(
        hidden_size=hidden,
        intermediate_size=int(fused) // 2,
        num_layers=count(fields["n_layers"]),
        num_heads=heads,
        num_kv_heads=int(fields.get("n_kv_heads") or heads),
        head_dim=hidden // heads,
        vocab_size=int(fields.get("embedding_size") or fields["vocab_size"]),
        extra_vocab_size=int(fields.get("additional_vocab_size") or _EXTRA_VOCABULARY),
        qkv_bias=bool(fields.get("qkv_bias", False)),
        qk_norm="full" if fields.get("attention_layer_norm") else "none",
        norm_after=bool(fields.get("norm_after", False)),
        norm_eps=float(fields.get("layer_norm_eps") or 1e-5),
        rope_theta=float(fields.get("rope_theta", 10000.0)),
        yarn=None,
        yarn_layers=frozenset(),
        max_positions=int(fields.get("max_position_embeddings") or fields["max_sequence_length"]),
        experts=Experts(count(fields["moe_num_experts"]), count(fields["moe_top_k"])) if mixture else None,
    )
