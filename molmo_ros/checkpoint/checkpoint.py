"""A checkpoint on disk: the built-in one, a folder, or a hub id in the local cache.

Nothing is downloaded unless the caller allows it.

Weights are read tensor by tensor through safetensors, which maps the file into memory; no pickle, no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.checkpoint.hub import INDEX, SINGLE, find_in_hub
from molmo_ros.checkpoint.preprocess import ImageConfig
from molmo_ros.checkpoint.prompt import PointPromptEncoder, PromptEncoder, encoder_class
from molmo_ros.checkpoint.rounded import RoundedWeights, read_rounded
from molmo_ros.datatypes import Float32, Progress
from molmo_ros.errors import CheckpointError
from molmo_ros.network.config import ModelConfig
from molmo_ros.network.read_config import parse_config
from molmo_ros.network.weights import Layout, is_unused, layouts, stored_shapes
from molmo_ros.untrusted import is_file, read_json

TINY = "tiny"
_MAPPED_BYTES = 100_000_000
_BLOCK_BYTES = 32_000_000
_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}

ASSETS = Path(__file__).parent.parent / "assets"


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint whose names and shapes have been checked; no tensor has been read yet.

    ``rounded``: matrices that were quantised beforehand, for one precision.
    """

    folder: Path
    config: ModelConfig
    image: ImageConfig
    encoder: PromptEncoder
    weights: Weights
    rounded: RoundedWeights | None = None

    @property
    def source(self) -> Path:
        """The folder with the weights as they were released."""
        return self.folder if self.rounded is None else self.rounded.checkpoint

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """All files that decide the network's numbers."""
        return self.weights.files + (self.rounded.files if self.rounded else ())


@dataclass
class Weights:
    """Tensors on disk. ``shapes`` and ``dtypes``, by stored name, are known without reading the data.

    ``layout`` maps the names by which the network asks to the stored ones; ``check_weights`` finds it.
    """

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    _files: dict[str, Path]
    layout: Layout = field(default_factory=dict)
    _open: dict[Path, Any] = field(default_factory=dict)
    _mapped: int = 0

    def read(self, name: str, dtype: Any = np.float32) -> npt.NDArray[Any]:
        """A tensor by the network's name, cast from its stored type; ``dtype`` None keeps that."""
        stored = self.layout.get(name)
        if stored is None:
            return self._read(name, dtype)
        if not stored.experts:
            return self._read(stored.names[0], dtype)
        if len(stored.names) > 1:
            return np.stack([self._read(part) for part in stored.names])
        stack = self._read(stored.names[0])
        stack = stack.reshape(stored.experts, -1, stack.shape[-1])
        return np.ascontiguousarray(stack.transpose(0, 2, 1)) if stored.transposed else stack

    def rows(self, name: str, rows: npt.NDArray[np.int64]) -> Float32:
        """Some rows of a matrix, (N, columns), without reading the others."""
        import ml_dtypes  # noqa: F401

        if name in self.layout:
            (name,) = self.layout[name].names
        part = self.file(self._files[name]).get_slice(name)
        return np.stack([np.asarray(part[int(row)], dtype=np.float32) for row in rows])

    def _read(self, name: str, dtype: Any = np.float32) -> npt.NDArray[Any]:
        """In blocks of rows: a large tensor is never held twice, in two types or in the mapped file as
        well."""
        import ml_dtypes  # noqa: F401  (teaches numpy the name bfloat16, which safetensors looks up)

        shape = self.shapes[name]
        tensor = np.empty(shape, _FLOATS[self.dtypes[name]] if dtype is None else dtype)
        step = max(_BLOCK_BYTES * len(tensor) // max(tensor.nbytes, 1), 1)
        for start in range(0, len(tensor), step):
            stop = min(start + step, len(tensor))
            block = self.file(self._files[name]).get_slice(name)[start:stop]
            tensor[start:stop] = block
            self._mapped += block.nbytes
            if self._mapped > _MAPPED_BYTES:  # pages of a mapped file count as our memory until it is closed
                self._open.clear()
                self._mapped = 0
        return tensor

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(sorted(set(self._files.values())))

    def file(self, path: Path) -> Any:
        """One of the safetensors files, opened."""
        if path not in self._open:
            self._open[path] = _open_safetensors(path)
        return self._open[path]


def load_checkpoint(
    name: str,
    *,
    allow_download: bool = False,
    max_crops: int | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Resolve ``name`` and check everything that can be checked without reading the weights.

    ``allow_download``: fetch a hub id that the cache lacks. ``max_crops``: high-resolution crops of an image,
    if other than the checkpoint's number.
    Raises: CheckpointError naming the file and how to fix it; ParameterError.
    """
    if allow_download and progress:
        progress("looking for the checkpoint", 0.0)
    folder = resolve(name, allow_download)
    config = parse_config(_read_json(folder / "config.json"), str(folder / "config.json"))
    path = folder / "preprocessor_config.json"
    image = ImageConfig.parse(_read_json(path), str(path))
    _check_image(image, config, path)
    if max_crops is not None and max_crops != image.max_crops:
        image = image.with_max_crops(max_crops)
    encoder = encoder_class(config.model_type).load(folder)
    _check_vocabulary(encoder, config, folder)
    if progress:
        progress("checking weights", 0.0)
    rounded = read_rounded(folder)
    source = folder if rounded is None else rounded.checkpoint
    weights = open_weights(source)
    check_weights(weights, config, source)
    return Checkpoint(folder, config, image, encoder, weights, rounded)


def resolve(name: str, allow_download: bool = False) -> Path:
    """The folder of "tiny", of a path, or of a hub id such as "allenai/Molmo2-4B" in the local cache."""
    if name == TINY:
        return _existing(ASSETS / TINY, "reinstall molmo_ros or train it again")
    try:
        if (path := Path(name).expanduser()).is_dir():
            return path.absolute()
    except (OSError, ValueError, RuntimeError) as error:  # too long, odd characters, ~ of an unknown user
        raise CheckpointError(f"There is no checkpoint folder {name[:80]!r} ({error}).") from error
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(
            f'There is no checkpoint folder "{name}"; give "tiny", a folder with config.json, '
            'or a hub id such as "allenai/Molmo2-4B".'
        )
    return find_in_hub(name, allow_download)


def open_weights(folder: Path) -> Weights:
    """Names, shapes and types of all tensors of a single or sharded safetensors checkpoint."""
    single, index = folder / SINGLE, folder / INDEX
    if index.is_file():
        files = _sharded(folder, index)
    elif single.is_file():
        files = dict.fromkeys(_open_safetensors(single).keys(), single)
    else:
        raise CheckpointError(
            f"{folder} has neither {SINGLE} nor {INDEX}; download the weights as safetensors "
            "(pickled .bin and .pt files are never read)."
        )
    weights = Weights({}, {}, files)
    for name, path in files.items():
        try:
            part = weights.file(path).get_slice(name)
        except Exception as error:
            message = f"{path} lacks {name}, which {index} promises; download it again."
            raise CheckpointError(message) from error
        weights.shapes[name] = tuple(part.get_shape())
        weights.dtypes[name] = str(part.get_dtype())
    return weights


def check_weights(weights: Weights, config: ModelConfig, folder: Path) -> None:
    """Names, shapes and types must be exactly those of the configuration, in one of its layouts.

    Raises: CheckpointError naming the first tensors that are missing, left over, or of another shape.
    """
    layout = min(layouts(config), key=lambda one: len(stored_shapes(one).keys() - weights.shapes.keys()))
    expected = stored_shapes(layout)
    fix = "config.json and weights are not of the same checkpoint, or a file is incomplete"
    if missing := sorted(expected.keys() - weights.shapes.keys()):
        raise CheckpointError(f"{folder}: {len(missing)} tensors are missing ({_some(missing)}); {fix}.")
    left = sorted(n for n in weights.shapes.keys() - expected.keys() if not is_unused(n, config))
    if left:
        raise CheckpointError(f"{folder}: {len(left)} tensors are left over ({_some(left)}); {fix}.")
    for name, shape in expected.items():
        if weights.shapes[name] != shape:
            stored = weights.shapes[name]
            raise CheckpointError(f"{folder}: {name} has shape {stored}, expected {shape}; {fix}.")
        if weights.dtypes[name] not in _FLOATS:
            found, kinds = weights.dtypes[name], ", ".join(_FLOATS)
            raise CheckpointError(f"{folder}: {name} is stored as {found}, not one of {kinds}; convert it.")
    weights.layout = layout


def _check_image(image: ImageConfig, config: ModelConfig, path: Path) -> None:
    vision = config.vision
    if (image.crop_size, image.patch_size) != (vision.image_size, vision.patch_size):
        raise CheckpointError(
            f"{path}: crops of {image.crop_size} px in patches of {image.patch_size} px, but the model wants "
            f"{vision.image_size} and {vision.patch_size}; take both files from the same checkpoint."
        )
    if config.point and image.max_crops == 0:
        raise CheckpointError(
            f"{path}: max_crops is 0, but MolmoPoint points at patches of high resolution; set it to 8."
        )


def _check_vocabulary(encoder: PromptEncoder, config: ModelConfig, folder: Path) -> None:
    path, size = folder / "tokenizer.json", config.text.vocab_size + config.text.extra_vocab_size
    highest = max(encoder.image_ids)
    if highest >= size:
        raise CheckpointError(
            f"{path} has ids up to {highest}, but the model knows {size}; "
            "take tokenizer.json from the same checkpoint as the weights."
        )
    if isinstance(encoder, PointPromptEncoder) and encoder.first_point != size:
        raise CheckpointError(
            f"{path} has <POINT_0> at {encoder.first_point}, the model points from {size} on; "
            "take tokenizer.json from the same checkpoint as the weights."
        )
    fields = _read_json(folder / "config.json")
    for name, found in encoder.stated_ids.items():
        if fields.get(name, found) != found:
            raise CheckpointError(
                f"{path} has the token of {name} at {found}, config.json at {fields[name]}; "
                "take both files from the same checkpoint."
            )


def _existing(folder: Path, fix: str) -> Path:
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json; {fix}.")
    return folder


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; download it from the checkpoint's page.")
    try:
        content = read_json(path)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no record; download it again.")
    return content


def _sharded(folder: Path, index: Path) -> dict[str, Path]:
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        raise CheckpointError(f"{index} has no weight_map; download it again.")
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard:
            raise CheckpointError(f"{index} names {shard!r}, which is not a file name; download it again.")
        if not is_file(folder / shard):
            raise CheckpointError(f"{folder / shard} is missing; download this shard.")
    return {name: folder / shard for name, shard in shards.items()}


def _open_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} ({size} bytes) is truncated or damaged ({error}); download it again."
        ) from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
