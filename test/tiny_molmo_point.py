"""Random MolmoPoint checkpoints in the released layout, small enough for each test to create its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tiny_molmo2 import QWEN, config_fields, random_tensor

from molmo_ros.network.read_config import parse_config
from molmo_ros.network.weights import expected_shapes

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
EXTRA = ["<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>",
         "<frame_start>", "<frame_end>", "<|video|>", "<|points|>", "<|token_index|>", "<|vit_index|>",
         "<|vit_loc|>"]  # fmt: skip
BASE, EXTRA_SIZE, POINTS = 300, 16, 400  # ids of the vocabulary; ids behind it; <POINT_k> behind those


def tokenizer(points: int = POINTS) -> Any:
    """A token per byte, the extra tokens behind ``BASE``, the points behind those; nothing is random."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    filler = [f"|<EXTRA_TOKENS_{i}>|" for i in range(BASE - len(alphabet) - len(SPECIAL))]
    more = [f"<EXTRA_TOKENS_POINT_{i}>" for i in range(EXTRA_SIZE - len(EXTRA))]
    tok.add_special_tokens([AddedToken(t, special=True) for t in [*SPECIAL, *filler, *EXTRA]])
    tok.add_tokens([AddedToken(t, special=False) for t in [*more, *(f"<POINT_{i}>" for i in range(points))]])
    assert tok.token_to_id("<im_start>") == BASE and tok.token_to_id("<POINT_0>") == BASE + EXTRA_SIZE
    return tok


def point_fields(**fields: Any) -> dict[str, Any]:
    """A config.json as released, with small numbers."""
    config = config_fields(QWEN, vocab_size=BASE)
    config["adapter_config"] |= {
        "model_type": "molmo_point", "head_dim": 12, "positional_embeddings": None,
        "attention_pooling_out_layer": False, "pooling_attention_mask": True,
    }  # fmt: skip
    config["vit_config"]["head_dim"] = 12
    config["text_config"]["additional_vocab_size"] = EXTRA_SIZE
    return {
        **config, "model_type": "molmo_point", "architectures": ["MolmoPointForConditionalGeneration"],
        "image_non_indexable_patch_id": BASE + 6, "patch_token_id": BASE + 11, "subpatch_token_id": BASE + 12,
        "location_token_id": BASE + 13, "use_frame_special_tokens": True, "patch_location": "3x3",
        "no_more_points_class": True, "patch_embed_dim": 32, "patch_embedding_kind": "image_feature0",
        "embed_selected_vit_patch": "linear", "embed_location": False, "layer_norm_x": True,
        "norm_logits": True, "mask_patches": "always", "mask_subpatches": "inference",
        "mask_repeats": "inference", "token_prediction_rotary": "one_d",
        "token_prediction_rotary_theta": 50000, **fields,
    }  # fmt: skip


def random_weights(fields: dict[str, Any], seed: int = 0, points: float = 1.0) -> dict[str, np.ndarray]:
    """By stored name, drawn in the order of the names; ``points`` makes <|token_index|> that much louder."""
    rng = np.random.default_rng(seed)
    shapes = expected_shapes(parse_config(fields))
    weights = {name: random_tensor(rng, name, shapes[name]) for name in sorted(shapes)}
    for name in ("lm_head.output_embeddings", "lm_head.new_output_embeddings"):
        weights[name] *= np.float32(0.1)
    # These read the unnormalised sum, which is large: smaller, so that 1e-5 means the same as elsewhere.
    weights["model.point_predictor.subpatch_loc_k.weight"] *= np.float32(0.25)
    weights["lm_head.new_output_embeddings"][11] *= np.float32(points)
    return weights


def write_checkpoint(
    folder: Path, *, max_crops: int = 4, seed: int = 0, points: float = 1.0, **fields: Any
) -> Path:
    """A complete checkpoint folder; returns it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = point_fields(**fields)
    (folder / "config.json").write_text(json.dumps(config))
    image = {
        "size": {"height": 44, "width": 44}, "patch_size": 4, "pooling_size": [2, 2],
        "overlap_margins": [2, 2], "max_crops": max_crops, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "image_processor_type": "Molmo2ImageProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "bos_token": None}))
    weights = random_weights(config, seed, points)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
