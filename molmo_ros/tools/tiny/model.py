"""The built-in model: a Molmo2 of four million parameters, and the heads that help it learn to see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

from molmo_ros.sim.objects import COLORS, KINDS
from molmo_ros.tools.tiny.tokenizer import ADDITIONAL_VOCAB_SIZE, VOCAB_SIZE

IMAGE_SIZE, PATCH, POOL = 160, 10, 2
GRID = IMAGE_SIZE // PATCH  # patches a side
TOKENS = GRID // POOL  # image tokens a side
WIDTH = 192
VIT = {"hidden_size": WIDTH, "intermediate_size": 576, "head_dim": 32, "num_attention_heads": 6}
TAPS = (3, 1)


def official_config() -> dict[str, Any]:
    """config.json in the released layout."""
    v = VOCAB_SIZE
    heads = {"num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 32}
    return {
        "model_type": "molmo2",
        "architectures": ["Molmo2ForConditionalGeneration"],
        "vit_config": {
            "model_type": "molmo2",
            **VIT,
            **heads,
            "num_hidden_layers": max(TAPS) + 1,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "image_default_input_size": [IMAGE_SIZE, IMAGE_SIZE],
            "image_patch_size": PATCH,
            "image_num_pos": GRID * GRID,
        },
        "adapter_config": {
            "model_type": "molmo2",
            "vit_layers": list(TAPS),
            "hidden_size": WIDTH,
            **heads,
            "hidden_act": "silu",
            "intermediate_size": 512,
            "text_hidden_size": WIDTH,
        },
        "text_config": {
            "model_type": "molmo2_text",
            "hidden_size": WIDTH,
            **heads,
            "num_key_value_heads": 2,
            "vocab_size": v,
            "additional_vocab_size": ADDITIONAL_VOCAB_SIZE,
            "qkv_bias": False,
            "qk_norm_type": "qwen3",
            "num_hidden_layers": 4,
            "intermediate_size": 512,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rope_theta": 10000.0,
            "rope_scaling": None,
            "layer_norm_eps": 1e-6,
            "norm_after": False,
            "tie_word_embeddings": False,
        },
        "image_start_token_id": v,
        "image_end_token_id": v + 1,
        "image_patch_id": v + 2,
        "low_res_image_start_token_id": v + 4,
        "frame_start_token_id": v + 7,
        "frame_end_token_id": v + 8,
        "tie_word_embeddings": False,
    }


def preprocessor_config() -> dict[str, Any]:
    """preprocessor_config.json: one crop of the whole image, no high-resolution crops."""
    return {
        "image_processor_type": "Molmo2ImageProcessor",
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "patch_size": PATCH,
        "pooling_size": [POOL, POOL],
        "max_crops": 0,
        "overlap_margins": [4, 4],
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }


def new_model(seed: int) -> Molmo2ForConditionalGeneration:
    """Random weights; residual branches start small, so that depth does not hurt at first."""
    torch.manual_seed(seed)
    model = Molmo2ForConditionalGeneration(Molmo2Config(**official_config()))
    model.set_attn_implementation("eager")  # its backward is the fastest on a CPU
    for name, p in model.named_parameters():
        if p.ndim == 2 and name.endswith(("o_proj.weight", "fc2.weight", "down_proj.weight")):
            nn.init.normal_(p, std=0.02 / 3)
        elif p.ndim == 2 and "embed" not in name:
            nn.init.normal_(p, std=p.shape[1] ** -0.5)
    with torch.no_grad():
        model.model.vision_tower.positional_embedding.copy_(0.5 * grid_waves())
    return model


def grid_waves() -> Tensor:
    """Sines and cosines of each patch's row and column (256, 192): places need not be learned first.

    Source: Vaswani et al. 2017, in two dimensions as in MAE.
    """
    frequency = 10_000.0 ** -(torch.arange(WIDTH // 4) / (WIDTH // 4))
    place = torch.arange(GRID)[:, None] * frequency
    waves = torch.cat([place.sin(), place.cos()], 1)
    return torch.cat([waves.repeat_interleave(GRID, 0), waves.repeat(GRID, 1)], 1)


class Heads(nn.Module):
    """Auxiliary read-outs, discarded after training.

    patch: what each ViT patch belongs to; token: the same of each pooled image token, and where the
    centre of its object is, as the three digits of x and of y that the answer will need.
    """

    def __init__(self) -> None:
        super().__init__()
        names = 1 + len(KINDS) + len(COLORS)  # objectness, kind, colour
        self.patch = nn.Linear(WIDTH * len(TAPS), names)
        self.token = nn.Linear(WIDTH, names + 6 * 10)


def vision(model: Molmo2ForConditionalGeneration, patches: Tensor) -> Tensor:
    """Patches (B, 256, 300) -> tapped features (B, 256, 384)."""
    tower = model.model.vision_tower
    x = tower.patch_embedding(patches) + tower.positional_embedding
    taps = {}
    for i, layer in enumerate(tower.layers):
        x = layer(x, None)
        taps[i] = x
    return torch.cat([taps[i] for i in TAPS], -1)


def connect(model: Molmo2ForConditionalGeneration, features: Tensor) -> Tensor:
    """Tapped features (B, 256, 384) -> image tokens (B, 64, 192); every 2x2 window is full here."""
    adapter = model.model.multi_modal_projector
    b, c = features.shape[0], features.shape[-1]
    x = features.view(b, TOKENS, POOL, TOKENS, POOL, c).transpose(2, 3).reshape(b * TOKENS**2, POOL**2, c)
    pooled, _ = adapter.image_pooling_2d(x.mean(1, keepdim=True), x, attention_mask=None)
    tokens: Tensor = adapter.image_projector(pooled.squeeze(1))
    return tokens.view(b, TOKENS**2, -1)


def text(model: Molmo2ForConditionalGeneration, embeds: Tensor, bias: Tensor, positions: Tensor) -> Tensor:
    """Embeddings (B, T, D), additive mask (B, 1, T, T), positions (B, T) -> hidden states (B, T, D)."""
    decoder = model.model.language_model
    rope = decoder.rotary_emb(embeds, positions)
    x = embeds
    for layer in decoder.layers:
        x = layer(x, position_embeddings=rope, attention_mask=bias)
    hidden: Tensor = decoder.norm(x)
    return hidden
