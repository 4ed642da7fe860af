"""Random Molmo2 checkpoints in the released layout, small enough for each test to create its own.

Every weight, norm, bias and extra embedding is random, since defaults of 0 and 1 hide mistakes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from molmo_ros.network.read_config import parse_config
from molmo_ros.network.weights import expected_shapes

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
EXTRA = ["<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>", "<|image|>", "<im_low>",
         "<frame_start>", "<frame_end>", "<|video|>"]  # fmt: skip
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CORPUS = [
    "Point to the red mug. Point to the bowl. How many mugs are there? There are none.",
    'Counting the <points coords="1 1 308 305 2 752 377">mugs</points> shows a total of 2.',
    'user\nPoint to the green box.assistant\n<points coords="1 1 0123456789">bottle</points>',
]

QWEN: dict[str, Any] = {"qk_norm_type": "qwen3", "norm_after": False, "qkv_bias": False}
QWEN_BIAS: dict[str, Any] = {**QWEN, "qkv_bias": True, "num_key_value_heads": 4}
OLMO: dict[str, Any] = {
    "qk_norm_type": "olmo", "norm_after": True, "qkv_bias": False, "rope_theta": 500000.0,
    "rope_scaling_layers": [1], "rope_scaling": {
        "rope_type": "yarn", "factor": 8.0, "attention_factor": 1.20794, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 512,
    },
}  # fmt: skip


def tokenizer(vocab_size: int) -> Any:
    """A byte-level BPE with Qwen's pre-tokenizer: single digits, control tokens, Molmo2's extra tokens."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )

    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tok.train_from_iterator(CORPUS, trainer)
    filler = [f"|<EXTRA_TOKENS_{i}>|" for i in range(vocab_size - len(SPECIAL) - tok.get_vocab_size())]
    tok.add_special_tokens([AddedToken(t, special=True) for t in [*SPECIAL, *filler]])
    assert tok.get_vocab_size() == vocab_size
    tok.add_special_tokens([AddedToken(t, special=True) for t in EXTRA])
    tok.add_tokens([AddedToken("<think>", special=False)])
    return tok


def config_fields(
    text: dict[str, Any], *, size: int = 44, patch: int = 4, vocab_size: int = 400
) -> dict[str, Any]:
    """A config.json as released, with small numbers; the ViT claims more blocks than are stored."""
    dims = {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 10}
    return {
        "model_type": "molmo2", "architectures": ["Molmo2ForConditionalGeneration"], "dtype": "float32",
        "vit_config": {
            **dims, "model_type": "molmo2", "intermediate_size": 72, "num_hidden_layers": 6,
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
            "image_default_input_size": [size, size], "image_patch_size": patch,
            "image_num_pos": (size // patch) ** 2,
        },
        "adapter_config": {
            **dims, "model_type": "molmo2", "intermediate_size": 60, "hidden_act": "silu",
            "text_hidden_size": 64, "vit_layers": [-2, -4],
        },
        "text_config": {
            "model_type": "molmo2_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "vocab_size": vocab_size,
            "additional_vocab_size": 16, "hidden_act": "silu", "layer_norm_eps": 1e-6,
            "max_position_embeddings": 4096, "rope_theta": 1000000.0, "rope_scaling": None,
            "rope_scaling_layers": None, "use_qk_norm": True, **text,
        },
        "image_start_token_id": vocab_size, "image_end_token_id": vocab_size + 1,
        "image_patch_id": vocab_size + 2, "image_col_id": vocab_size + 3,
        "low_res_image_start_token_id": vocab_size + 4, "frame_start_token_id": vocab_size + 7,
        "frame_end_token_id": vocab_size + 8, "tie_word_embeddings": False,
    }  # fmt: skip


def random_weights(fields: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = expected_shapes(parse_config(fields))
    return {name: random_tensor(rng, name, shape) for name, shape in shapes.items()}


def random_tensor(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Norms around 1, biases around 0, embeddings of unit size, matrices that keep sizes."""
    value = rng.standard_normal(shape).astype(np.float32)
    if name.endswith(("norm.weight", "ln_f.weight", "pre_ln.weight")):
        return 1 + np.float32(0.3) * value
    if len(shape) == 1:
        return np.float32(0.2) * value
    if ("embedding" in name and "patch" not in name) or "pad_embed" in name:
        return value
    return value * np.float32(0.8 / np.sqrt(shape[1]))


def write_checkpoint(
    folder: Path, text: dict[str, Any] = QWEN, *, max_crops: int = 4, shards: int = 1, seed: int = 0,
    size: int = 44, patch: int = 4, margins: tuple[int, int] = (2, 2),
) -> Path:  # fmt: skip
    """A complete checkpoint folder; returns it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    fields = config_fields(text, size=size, patch=patch)
    (folder / "config.json").write_text(json.dumps(fields))
    image = {
        "size": {"height": size, "width": size}, "patch_size": patch, "pooling_size": [2, 2],
        "overlap_margins": list(margins), "max_crops": max_crops, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "image_processor_type": "Molmo2ImageProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    tokenizer(fields["text_config"]["vocab_size"]).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "bos_token": None}))
    weights = random_weights(fields, seed)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = sorted(weights)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: weights[name] for name in names[i::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder
