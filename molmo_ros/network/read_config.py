"""The configuration of any generation, read from the content of a checkpoint's config.json and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields as fields_of
from dataclasses import is_dataclass
from typing import Any

from molmo_ros.errors import CheckpointError
from molmo_ros.network.config import POINT, V1, V2, Fields, ModelConfig
from molmo_ros.network.config_v1 import parse_v1
from molmo_ros.network.config_v2 import parse_point, parse_v2

_SIZE, _FACTOR = (1, 1 << 30), (1e-9, 1e9)
_RANGES = {"extra_vocab_size": (0, 1 << 30), "rope_theta": (1.001, 1e12), "norm_eps": (0.0, 0.1)}


def parse_config(fields: Fields, path: str = "config.json") -> ModelConfig:
    """Read the content of a config.json.

    Raises: CheckpointError if the model_type is unknown, a field is missing, or sizes contradict.
    """
    readers = {V1: parse_v1, V2: parse_v2, POINT: parse_point}
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
