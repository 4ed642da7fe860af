"""Random Molmo v1 checkpoints in the released layout, small enough for each test to create its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tiny_molmo2 import random_tensor

from molmo_ros.network.read_config import parse_config
from molmo_ros.network.weights import layouts, stored_shapes

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
EXTRA = ["<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>"]
BASE = 300  # ids of the tokenizer; the image tokens follow

# The vision side is fixed in released checkpoints; a ``vision_backbone`` record overrides it.
CLIP: dict[str, Any] = {
    "image_default_input_size": [48, 48], "image_patch_size": 4, "image_emb_dim": 40, "image_num_heads": 4,
    "image_head_dim": 10, "image_num_layers": 10, "image_mlp_dim": 56, "image_mlp_activations": "quick_gelu",
    "image_norm_eps": 1e-5,
}  # fmt: skip
COMMON: dict[str, Any] = {
    "model_type": "molmo", "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3,
    "num_attention_heads": 4, "layer_norm_type": "rms", "clip_qkv": None, "weight_tying": False,
    "use_position_ids": True, "max_position_embeddings": 1024, "vision_backbone": CLIP,
}  # fmt: skip
# 7B-D: Qwen2; the image tokens lie behind the base table.
QWEN2: dict[str, Any] = {
    **COMMON, "num_key_value_heads": 2, "vocab_size": BASE, "embedding_size": BASE, "qkv_bias": True,
    "attention_layer_norm": False, "norm_after": False, "rope_theta": 1e6, "layer_norm_eps": 1e-6,
}  # fmt: skip
# 7B-O: OLMo; the image tokens lie in the base table, which is larger than the vocabulary.
OLMO: dict[str, Any] = {
    **COMMON, "num_key_value_heads": None, "vocab_size": BASE, "embedding_size": BASE + 20, "qkv_bias": False,
    "attention_layer_norm": True, "norm_after": True, "rope_theta": 5e5, "layer_norm_eps": 1e-6,
}  # fmt: skip
# MolmoE: the vocabulary of the training code, and experts.
MIXTURE: dict[str, Any] = {
    "model_type": "molmo", "d_model": 64, "n_heads": 4, "n_layers": 2, "mlp_ratio": 1, "block_type": "moe",
    "moe_num_experts": 8, "moe_top_k": 3, "attention_layer_norm": True, "layer_norm_eps": 1e-5,
    "vocab_size": BASE, "embedding_size": BASE + 20, "rope_theta": 1e4, "max_position_embeddings": 1024,
    "vision_backbone": CLIP,
}  # fmt: skip


def tokenizer() -> Any:
    """A token per byte, with v1's image tokens behind ``BASE``; nothing in it depends on chance."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    filler = [f"|<EXTRA_TOKENS_{i}>|" for i in range(BASE - len(alphabet) - len(SPECIAL))]
    tok.add_special_tokens([AddedToken(t, special=True) for t in [*SPECIAL, *filler, *EXTRA]])
    assert tok.token_to_id("<im_start>") == BASE
    return tok


def random_weights(fields: dict[str, Any], seed: int = 0, layout: int = 0) -> dict[str, np.ndarray]:
    """By stored name, drawn in the order of the names."""
    rng = np.random.default_rng(seed)
    shapes = stored_shapes(layouts(parse_config(fields))[layout])
    return {name: random_tensor(rng, name, shapes[name]) for name in sorted(shapes)}


def write_checkpoint(
    folder: Path, fields: dict[str, Any] = QWEN2, *, max_crops: int = 6, seed: int = 0, layout: int = 0
) -> Path:
    """A complete checkpoint folder; returns it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    image = {
        "processor_class": "MolmoProcessor", "base_image_input_size": [48, 48], "image_patch_size": 4,
        "image_token_length_h": 6, "image_token_length_w": 6, "max_crops": max_crops,
        "overlap_margins": [2, 2], "image_padding_mask": True, "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    save_file(random_weights(fields, seed, layout), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
