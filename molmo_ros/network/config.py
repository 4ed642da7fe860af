"""One frozen configuration of the network for every generation, read from a checkpoint's config.json.

Two vocabularies exist for Molmo2: that of the released files (vit_config, image_patch_size, vit_layers,
rope_scaling ...) and that of newer transformers (vision_config, patch_size, vision_feature_layer,
rope_parameters ...). Molmo v1 has two others (``config_v1``). All end here; nothing behind this file knows
of any.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Index
from molmo_ros.errors import CheckpointError

Fields = Mapping[str, Any]

V1, V2, POINT = "molmo", "molmo2", "molmo_point"
# Raise when the graphs change: those cached on a user's disk are built anew, engines of others are refused.
GRAPH_VERSION = 5
MOST_LAYERS = 1000  # and experts: a larger number would take all memory before anything else is checked
_SIZE, _FACTOR = (1, 1 << 30), (1e-9, 1e9)
_RANGES = {"extra_vocab_size": (0, 1 << 30), "rope_theta": (1.001, 1e12), "norm_eps": (0.0, 0.1)}


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
    out_projection: bool = True  # MolmoPoint has none behind the pooling


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
        """Cosines and sines (N,embed_size) by which keys and queries at some positions (N,) are turned."""
        frequencies = (1.0 / _rope_base(self.embed_size, self.rope_theta)).astype(np.float32)
        angles = turns.astype(np.float32)[:, None] * np.concatenate([frequencies, frequencies])
        return np.cos(angles), np.sin(angles)


@dataclass(frozen=True)
class AskedTokens:
    """``known``: tokens whose logits are wanted with every choice; ``never``: those that are not chosen."""

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
        """Columns of the logits: of the released models, MolmoPoint alone can say its extra tokens."""
        text = self.text
        return text.vocab_size + (text.extra_vocab_size if self.point else 0)

    @property
    def image_sees_ahead(self) -> bool:
        """Whether the tokens of an image see each other in both directions, or only backwards as in v1."""
        return self.model_type != V1


def parse_config(fields: Fields, path: str = "config.json") -> ModelConfig:
    """Read the content of a config.json.

    Raises: CheckpointError if the model_type is unknown, a field is missing, or sizes contradict.
    """
    from molmo_ros.network.config_v1 import parse_v1

    readers = {V1: parse_v1, V2: _parse_v2, POINT: _parse_point}
    model_type = str(fields.get("model_type"))
    if model_type not in readers:
        raise CheckpointError(f'{path}: model_type is "{model_type}"; known are {", ".join(readers)}.')
    try:
        config = readers[model_type](fields)
    except KeyError as error:
        raise CheckpointError(f"{path}: field {error} is missing; download the file again.") from error
    except (TypeError, AttributeError, ValueError, ArithmeticError, IndexError) as error:
        raise CheckpointError(
            f"{path}: a field has a wrong type or value ({error}); download the file again."
        ) from error
    _check(config, fields, path)
    return config


def _parse_v2(fields: Fields) -> ModelConfig:
    vision_fields = fields["vit_config"] if "vit_config" in fields else fields["vision_config"]
    return ModelConfig(
        model_type=V2,
        vision=_vision(vision_fields, fields["adapter_config"]),
        connector=_connector(fields["adapter_config"]),
        text=_text(fields["text_config"]),
    )


def _parse_point(fields: Fields) -> ModelConfig:
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
    return replace(_parse_v2(fields), model_type=POINT, connector=connector, point=point)


def _when_answering(fields: Fields, name: str, default: str) -> bool:
    """Whether a restriction that training may have had as well holds for answers."""
    return fields.get(name, default) in ("always", "all", "inference")


def _first(fields: Fields, *names: str) -> Any:
    """The field under the first of its names that is present."""
    for name in names:
        if name in fields:
            return fields[name]
    raise KeyError(names[0])


def count(value: Any) -> int:
    """A number of layers or experts. Raises: ValueError if none can have so many."""
    if not 1 <= (number := int(value)) <= MOST_LAYERS:
        raise ValueError(f"{number} layers or experts; 1 to {MOST_LAYERS} can be")
    return number


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


def _check(config: ModelConfig, fields: Fields, path: str) -> None:
    vision, connector, text = config.vision, config.connector, config.text
    if wrong := [*_impossible(config)]:
        raise CheckpointError(f"{path}: {', '.join(wrong)} cannot be; download the file again.")
    facts = [
        (vision.image_size % vision.patch_size == 0, "the image size is not a multiple of the patch size"),
        (text.num_heads % text.num_kv_heads == 0, "the heads are not a multiple of the key-value heads"),
        (text.head_dim % 2 == 0, "the head size is odd, so it cannot be rotated"),
        (connector.hidden_size == vision.hidden_size, "adapter and vision tower differ in width"),
        (connector.out_projection or connector.num_heads * connector.head_dim == connector.hidden_size,
         "the adapter's heads do not fill its width, and nothing projects them"),
        (fields.get("adapter_config", {}).get("text_hidden_size", text.hidden_size) == text.hidden_size,
         "adapter and text model differ in width"),
    ]  # fmt: skip
    for good, fact in facts:
        if not good:
            raise CheckpointError(
                f"{path}: {fact}; take config.json from the same checkpoint as the weights."
            )


def _impossible(part: Any, name: str = "") -> Iterator[str]:
    """The numbers of a configuration that are out of any range, as "text.rope_theta -1"."""
    if is_dataclass(part):
        for field in fields_of(part):
            yield from _impossible(getattr(part, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(part, int | float) and not isinstance(part, bool):
        low, high = _RANGES.get(name.rpartition(".")[2], _SIZE if isinstance(part, int) else _FACTOR)
        if not low <= part <= high:
            yield f"{name} {part:g}"


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
