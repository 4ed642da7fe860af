"""Released checkpoints at full size: true configuration and key names, in files of holes.

The names are spelled out here once more, apart from ``network/weights.py``, as released.
"""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import pytest

from molmo_ros.checkpoint.checkpoint import check_weights, open_weights
from molmo_ros.errors import CheckpointError
from molmo_ros.network.read_config import parse_config

Shapes = dict[str, list[int]]


def dense_v1(**fields: Any) -> dict[str, Any]:
    return {
        "model_type": "molmo", "architectures": ["MolmoForCausalLM"], "clip_qkv": None, "use_cache": True,
        "initializer_range": 0.02, "layer_norm_type": "rms", "max_position_embeddings": 4096,
        "tie_word_embeddings": False, "use_position_ids": True, "weight_tying": False, **fields,
    }  # fmt: skip


def qwen2(**fields: Any) -> dict[str, Any]:
    return dense_v1(
        attention_layer_norm=False, norm_after=False, qkv_bias=True, rope_theta=1e6, vocab_size=152064,
        embedding_size=152064, **fields,
    )  # fmt: skip


def molmo2(hidden: int, wide: int, layers: int, **text: Any) -> dict[str, Any]:
    dims = {"hidden_size": 1152, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 72}
    return {
        "model_type": "molmo2",
        "vit_config": {
            **dims, "intermediate_size": 4304, "num_hidden_layers": 27, "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6, "image_default_input_size": [378, 378], "image_patch_size": 14,
            "image_num_pos": 729,
        },
        "adapter_config": {
            **dims, "intermediate_size": wide, "text_hidden_size": hidden, "hidden_act": "silu",
            "vit_layers": [-3, -9], "pooling_attention_mask": True,
        },
        "text_config": {
            "hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers, "head_dim": 128,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936,
            "additional_vocab_size": 128, "qkv_bias": False, "use_qk_norm": True, "qk_norm_type": "qwen3",
            "norm_after": False, "layer_norm_eps": 1e-6, "rope_theta": 1e6, "rope_scaling": None,
            "rope_scaling_layers": None, "max_position_embeddings": 36864, **text,
        },
    }  # fmt: skip


OLMO3 = {
    "num_key_value_heads": 32, "vocab_size": 100278, "qk_norm_type": "olmo", "norm_after": True,
    "rope_theta": 5e5, "rope_scaling_layers": [3, 7, 11, 15, 19, 23, 27, 31], "rope_scaling": {
        "rope_type": "yarn", "factor": 8.0, "attention_factor": 1.20794, "beta_fast": 32, "beta_slow": 1,
        "original_max_position_embeddings": 8192,
    }, "max_position_embeddings": 65536,
}  # fmt: skip
MIXTURE = {
    "model_type": "molmo", "architectures": ["MolmoForCausalLM"], "d_model": 2048, "n_heads": 16,
    "n_layers": 16, "mlp_ratio": 1, "block_type": "moe", "moe_num_experts": 64, "moe_top_k": 8,
    "attention_layer_norm": True, "layer_norm_type": "rms", "layer_norm_eps": 1e-5, "rope_theta": 10000.0,
    "vocab_size": 50280, "embedding_size": 50304, "additional_vocab_size": 128,
    "max_position_embeddings": 32768, "vit_layers": [-2, -9], "weight_tying": False,
}  # fmt: skip


def molmo_point(hidden: int, wide: int, layers: int, **text: Any) -> dict[str, Any]:
    return {
        **molmo2(hidden, wide, layers, **text), "model_type": "molmo_point", "patch_location": "3x3",
        "no_more_points_class": True, "patch_embed_dim": 512, "patch_embedding_kind": "image_feature0",
        "embed_selected_vit_patch": "linear", "embed_location": False, "layer_norm_x": True,
        "mask_patches": "always", "mask_repeats": "inference", "mask_subpatches": "inference",
        "token_prediction_rotary": "one_d", "token_prediction_rotary_theta": 50000,
        "low_res_image_start_token_id": None,
    }  # fmt: skip


OFFICIAL: dict[str, dict[str, Any]] = {
    "MolmoE-1B-0924": MIXTURE,
    "Molmo-7B-O-0924": dense_v1(
        hidden_size=4096, intermediate_size=22016, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=None, attention_layer_norm=True, norm_after=True, qkv_bias=False, rope_theta=5e5,
        layer_norm_eps=1e-6, vocab_size=100278, embedding_size=100352,
    ),
    "Molmo-7B-D-0924": qwen2(
        hidden_size=3584, intermediate_size=37888, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, layer_norm_eps=1e-6,
    ),
    "Molmo-72B-0924": qwen2(
        hidden_size=8192, intermediate_size=59136, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, layer_norm_eps=1e-5,
    ),
    "Molmo2-4B": molmo2(2560, 9728, 36, rope_theta=5e6),
    "Molmo2-8B": molmo2(4096, 12288, 36),
    "Molmo2-O-7B": molmo2(4096, 11008, 32, **OLMO3),
    "Molmo2-ER": molmo2(2560, 9728, 36, rope_theta=5e6),
    "Molmo2-VideoPoint-4B": molmo2(2560, 9728, 36, rope_theta=5e6),
    "MolmoPoint-8B": molmo_point(4096, 12288, 36),
    "MolmoPoint-GUI-8B": molmo_point(4096, 12288, 36),
    "MolmoPoint-Vid-4B": molmo_point(2560, 9728, 36, rope_theta=5e6, tie_word_embeddings=True),
}  # fmt: skip
# In units of 10^9, as published or computed from the published sizes; dead blocks not counted.
PARAMETERS = {
    "MolmoE-1B-0924": 7.22, "Molmo-7B-O-0924": 7.67, "Molmo-7B-D-0924": 8.02, "Molmo-72B-0924": 73.3,
    "Molmo2-4B": 4.85, "Molmo2-8B": 8.66, "Molmo2-O-7B": 7.76, "MolmoPoint-8B": 8.68,
    "Molmo2-ER": 4.85, "Molmo2-VideoPoint-4B": 4.85, "MolmoPoint-GUI-8B": 8.68, "MolmoPoint-Vid-4B": 4.47,
}  # fmt: skip


def linear(name: str, out: int, into: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": [out, into], **({f"{name}.bias": [out]} if bias else {})}


def norm(name: str, size: int, bias: bool) -> Shapes:
    return {f"{name}.weight": [size], **({f"{name}.bias": [size]} if bias else {})}


def tower(prefix: str, size: int, wide: int, blocks: int) -> Shapes:
    names: Shapes = {}
    for i in range(blocks):
        block = f"{prefix}transformer.resblocks.{i}."
        for part in ("wq", "wk", "wv", "wo"):
            names |= linear(f"{block}attention.{part}", size, size)
        names |= linear(f"{block}feed_forward.w1", wide, size) | linear(f"{block}feed_forward.w2", size, wide)
        names |= norm(f"{block}attention_norm", size, True) | norm(f"{block}ffn_norm", size, True)
    return names


def projector(prefix: str, wide: int, size: int, hidden: int) -> Shapes:
    up = linear(f"{prefix}w1", wide, size, False) | linear(f"{prefix}w3", wide, size, False)
    return up | linear(f"{prefix}w2", hidden, wide, False)


def clip(hidden: int, wide: int) -> Shapes:
    root = "model.vision_backbone."
    names = tower(f"{root}image_vit.", 1024, 4096, 23)
    names |= {
        f"{root}image_vit.class_embedding": [1024], f"{root}image_vit.positional_embedding": [577, 1024],
        f"{root}image_vit.patch_embedding.weight": [1024, 588], f"{root}pad_embed": [2, 2048],
        **norm(f"{root}image_vit.pre_ln", 1024, True), **linear(f"{root}image_pooling_2d.wo", 1024, 1024),
    }  # fmt: skip
    for part in ("wq", "wk", "wv"):
        names |= linear(f"{root}image_pooling_2d.{part}", 1024, 2048)
    return names | projector(f"{root}image_projector.", wide, 1024, hidden)


def dense_v1_names(c: dict[str, Any]) -> Shapes:
    hidden, fused, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
    kv = hidden // heads * (c["num_key_value_heads"] or heads)
    root = "model.transformer."
    names: Shapes = {
        f"{root}wte.embedding": [c["embedding_size"], hidden], f"{root}wte.new_embedding": [128, hidden],
        f"{root}ln_f.weight": [hidden], f"{root}ff_out.weight": [c["embedding_size"], hidden],
    }  # fmt: skip
    for i in range(c["num_hidden_layers"]):
        block = f"{root}blocks.{i}."
        names |= linear(f"{block}att_proj", hidden + 2 * kv, hidden, c["qkv_bias"])
        names |= linear(f"{block}attn_out", hidden, hidden, False)
        names |= linear(f"{block}ff_proj", fused, hidden, False)
        names |= linear(f"{block}ff_out", hidden, fused // 2, False)
        names |= norm(f"{block}attn_norm", hidden, False) | norm(f"{block}ff_norm", hidden, False)
        if c["attention_layer_norm"]:
            names |= norm(f"{block}q_norm", hidden, False) | norm(f"{block}k_norm", kv, False)
    return names | clip(hidden, fused // 2)


def mixture_names(c: dict[str, Any]) -> Shapes:
    root, hidden = "model.transformer.", 2048
    names: Shapes = {
        f"{root}wte.embedding": [50304, hidden], f"{root}wte.new_embedding": [128, hidden],
        f"{root}ln_f.weight": [hidden], "lm_head.weight": [50304, hidden],
    }  # fmt: skip
    for i in range(16):
        attention, mlp = f"{root}blocks.{i}.attn.", f"{root}blocks.{i}.mlp."
        names |= linear(f"{attention}att_proj", 3 * hidden, hidden, False)
        names |= linear(f"{attention}attn_out", hidden, hidden, False)
        for part in ("q_norm", "k_norm", "attn_norm"):
            names |= norm(f"{attention}{part}", hidden, False)
        names |= {f"{mlp}gate.weight": [64, hidden], f"{mlp}ff_norm.weight": [hidden]}
        for e in range(64):
            names |= {f"{mlp}experts.{e}.{p}_proj.weight": [1024, hidden] for p in ("gate", "up")}
            names[f"{mlp}experts.{e}.down_proj.weight"] = [hidden, 1024]
    return names | clip(hidden, 1024)


def molmo2_names(c: dict[str, Any]) -> Shapes:
    text, point = c["text_config"], c["model_type"] == "molmo_point"
    hidden, wide, vocabulary = (text[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    q, kv = (text[k] * 128 for k in ("num_attention_heads", "num_key_value_heads"))
    vit = "model.vit." if point else "model.vision_backbone.image_vit."
    connector = "model.connector." if point else "model.vision_backbone."
    root = "model.transformer."
    names = tower(vit, 1152, 4304, 25) | projector(f"{connector}image_projector.", wide, 1152, hidden)
    names |= {f"{vit}positional_embedding": [729, 1152], **linear(f"{vit}patch_embedding", 1152, 588)}
    for part in ("wq", "wk", "wv"):
        names |= linear(f"{connector}image_pooling_2d.{part}", 1152, 2304)
    names |= {
        f"{root}wte.embedding": [vocabulary, hidden], f"{root}wte.new_embedding": [128, hidden],
        f"{root}ln_f.weight": [hidden],
    }  # fmt: skip
    full = text["qk_norm_type"] == "olmo"
    for i in range(text["num_hidden_layers"]):
        block = f"{root}blocks.{i}."
        names |= linear(f"{block}self_attn.att_proj", q + 2 * kv, hidden, False)
        names |= linear(f"{block}self_attn.attn_out", hidden, q, False)
        names |= norm(f"{block}self_attn.q_norm", q if full else 128, False)
        names |= norm(f"{block}self_attn.k_norm", kv if full else 128, False)
        names |= linear(f"{block}mlp.ff_proj", 2 * wide, hidden, False)
        names |= linear(f"{block}mlp.ff_out", hidden, wide, False)
        names |= norm(f"{block}attn_norm", hidden, False) | norm(f"{block}ff_norm", hidden, False)
    if not point:
        names |= linear(f"{connector}image_pooling_2d.wo", 1152, 1152)
        return names | {"lm_head.weight": [vocabulary, hidden]}
    predictor = "model.point_predictor."
    names |= linear("model.build_vit_embedding", hidden, 2304) | norm(f"{predictor}x_norm", hidden, False)
    for part in ("patch_q", "patch_k", "subpatch_q"):
        names |= linear(f"{predictor}{part}", 512, hidden)
    names |= linear(f"{predictor}subpatch_k", 512, 2304) | linear(f"{predictor}subpatch_loc_k", 9, hidden)
    names[f"{predictor}add_no_point_class_embed.vector"] = [512]
    if text.get("tie_word_embeddings"):  # stored once, as the embeddings
        return names
    return names | {
        "lm_head.output_embeddings": [vocabulary, hidden],
        "lm_head.new_output_embeddings": [128, hidden],
    }  # fmt: skip


def names_of(fields: dict[str, Any]) -> Shapes:
    if fields["model_type"] != "molmo":
        return molmo2_names(fields)
    return mixture_names(fields) if "d_model" in fields else dense_v1_names(fields)


def write_sparse(folder: Path, shapes: Shapes, dtype: str = "BF16", shards: int = 3) -> None:
    """A sharded safetensors checkpoint of the right length, all holes."""
    bytes_each, weight_map, names = {"BF16": 2, "F32": 4}[dtype], {}, sorted(shapes)
    for i in range(shards):
        file, header, end = f"model-{i + 1:05d}-of-{shards:05d}.safetensors", {}, 0
        for name in names[i::shards]:
            begin, end = end, end + bytes_each * prod(shapes[name])
            header[name] = {"dtype": dtype, "shape": shapes[name], "data_offsets": [begin, end]}
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("name", OFFICIAL)
def test_nothing_missing_nothing_left_over(name: str, tmp_path: Path) -> None:
    fields = OFFICIAL[name]
    config, shapes = parse_config(fields), names_of(fields)
    write_sparse(tmp_path, shapes)
    weights = open_weights(tmp_path)
    check_weights(weights, config, tmp_path)
    dead = sum(prod(s) for n, s in shapes.items() if "resblocks.22." in n and config.vision.clip)
    assert (weights.parameters - dead) / 1e9 == pytest.approx(PARAMETERS[name], abs=0.006 * PARAMETERS[name])
    assert max(config.vision.taps) + 1 == config.vision.num_layers == (22 if config.vision.clip else 25)


@pytest.mark.parametrize("name", ["MolmoE-1B-0924", "Molmo-7B-D-0924", "Molmo2-4B", "MolmoPoint-8B"])
def test_one_name_off(name: str, tmp_path: Path) -> None:
    shapes = names_of(OFFICIAL[name])
    last = sorted(shapes)[0]
    shapes["model.other"] = shapes.pop(last)
    write_sparse(tmp_path, shapes)
    with pytest.raises(CheckpointError, match="1 tensors are missing"):
        check_weights(open_weights(tmp_path), parse_config(OFFICIAL[name]), tmp_path)


def test_sizes_behind_the_text_model() -> None:
    """Fused widths count gate and up together in v1's files."""
    config = parse_config(OFFICIAL["Molmo-7B-D-0924"])
    assert (config.text.intermediate_size, config.connector.intermediate_size) == (18944, 18944)
    config = parse_config(OFFICIAL["MolmoE-1B-0924"])
    assert config.text.experts is not None and config.text.experts.active == 8
    assert (config.text.intermediate_size, config.text.vocab_size) == (1024, 50304)
