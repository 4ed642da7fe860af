"""One frozen configuration of the network for every generation; ``read_config`` makes it from a
config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Index

Fields = Mapping[str, Any]

V1, V2, POINT = "molmo", "molmo2", "molmo_point"
# Raise when the graphs change: those cached on a user's disk are rebuilt, engines of other versions are
# refused.
GRAPH_VERSION = 5
MOST_LAYERS = 1000  # and experts: a larger number would take all memory before anything else is checked


@dataclass(frozen=True)
class VisionConfig:
    """The vision transformer; ``num_layers`` counts the blocks that are needed, not those that are stored."""

    image_size: int
    patch_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    head_dim: int
    num_layers: int
    norm_eps: float
    activation: str  # "gelu_tanh" or "quick_gelu"
    taps: tuple[int, ...]  # blocks whose outputs are concatenated, in this order
    clip: bool = False  # CLIP: a class token, a norm before the first block, no bias at the patches

    @property
    def grid(self) -> int:
        """Patches along one side of a crop."""
        return self.image_size // self.patch_size

    @property
    def tap_size(self) -> int:
        return self.hidden_size * len(self.taps)


@dataclass(frozen=True)
class ConnectorConfig:
    """Attention pooling of patches, then a gated MLP to the width of the text model."""

    hidden_size: int
    num_heads: int
    head_dim: int
    intermediate_size: int
    pad_embed: bool = False  # v1: learned vectors added to patches that show padding
    out_projection: bool = True  # MolmoPoint has none after the pooling


@dataclass(frozen=True)
class Yarn:
    """YaRN scaling of the rotary frequencies."""

    factor: float
    original_max_positions: int
    attention_factor: float
    beta_fast: float
    beta_slow: float
    truncate: bool


@dataclass(frozen=True)
class Experts:
    """A mixture: of ``count`` gated MLPs, the ``active`` most probable ones serve a token."""

    count: int
    active: int


@dataclass(frozen=True)
class TextConfig:
    """The language model. ``qk_norm`` is "head" (Qwen3), "full" (OLMo) or "none"."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    extra_vocab_size: int
    qkv_bias: bool
    qk_norm: str
    norm_after: bool
    norm_eps: float
    rope_theta: float
    yarn: Yarn | None
    yarn_layers: frozenset[int]
    max_positions: int
    experts: Experts | None = None  # then ``intermediate_size`` is that of one expert
    tied: bool = False  # head and embedding are one table, and may be stored once

    def inverse_frequencies(self, layer: int) -> tuple[npt.NDArray[np.float32], float]:
        """Rotary frequencies (head_dim / 2,) of a layer, and the factor on its cosines and sines."""
        if self.yarn is not None and layer in self.yarn_layers:
            return _yarn_frequencies(self.head_dim, self.rope_theta, self.yarn), self.yarn.attention_factor
        return (1.0 / _rope_base(self.head_dim, self.rope_theta)).astype(np.float32), 1.0


@dataclass(frozen=True)
class PointConfig:
    """MolmoPoint's predictor: it points by choosing an image token, a patch in it, and a place in that."""

    embed_size: int
    places: int  # 3x3 within a patch
    rope_theta: float
    sorted_tokens: bool = True  # points come in the order of their image tokens,
    sorted_patches: bool = True  # within a token in that of their patches,
    no_repeats: bool = True  # and no patch is chosen twice

    def rotations(self, turns: Index) -> tuple[npt.NDArray[np.float32], ...]:
        """Cosines and sines (N,embed_size) by which keys and queries at some positions (N,) are rotated."""
        frequencies = (1.0 / _rope_base(self.embed_size, self.rope_theta)).astype(np.float32)
        angles = turns.astype(np.float32)[:, None] * np.concatenate([frequencies, frequencies])
        return np.cos(angles), np.sin(angles)


@dataclass(frozen=True)
class AskedTokens:
    """``known``: tokens whose logits are wanted with every choice; ``never``: those that must not be
    chosen."""

    known: tuple[int, ...] = ()
    never: tuple[int, ...] = ()

    @property
    def columns(self) -> tuple[int, ...]:
        """``known``, or some token, since not every runtime takes an empty tensor."""
        return self.known or (0,)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the graphs."""

    model_type: str  # V1, V2 or POINT
    vision: VisionConfig
    connector: ConnectorConfig
    text: TextConfig
    point: PointConfig | None = None

    @property
    def logits(self) -> int:
        """Columns of the logits: of the released models, only MolmoPoint can generate its extra tokens."""
        text = self.text
        return text.vocab_size + (text.extra_vocab_size if self.point else 0)

    @property
    def image_sees_ahead(self) -> bool:
        """Whether the tokens of an image see each other in both directions, or only backwards as in v1."""
        return self.model_type != V1


def count(value: Any) -> int:
    """A number of layers or experts. Raises: ValueError if it is impossible."""
    if not 1 <= (number := int(value)) <= MOST_LAYERS:
        raise ValueError(f"{number} layers or experts; 1 to {MOST_LAYERS} can be")
    return number


def _rope_base(head_dim: int, theta: float) -> npt.NDArray[np.float32]:
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.asarray(np.float32(theta) ** exponents, dtype=np.float32)


def _yarn_frequencies(head_dim: int, theta: float, yarn: Yarn) -> npt.NDArray[np.float32]:
    """Source: YaRN (arXiv 2309.00071), section 3.2: interpolate slow dimensions, keep fast ones."""

    def dimension(rotations: float) -> float:
        return head_dim * math.log(yarn.original_max_positions / (rotations * 2 * math.pi)) / (
            2 * math.log(theta)
        )  # fmt: skip

    low, high = dimension(yarn.beta_fast), dimension(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = max(high - low, 0.001)
    ramp = np.clip((np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(width), 0, 1)
    base = _rope_base(head_dim, theta)
    keep = np.float32(1) - ramp
    return np.asarray(
        (1 / (np.float32(yarn.factor) * base)) * (1 - keep) + (1 / base) * keep, dtype=np.float32
    )
