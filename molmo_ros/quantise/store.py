"""Writing of quantised folders, which ``checkpoint.rounded`` reads."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.checkpoint.rounded import FOLDED, FORMAT, QUANTISED, SCALES, VALUES
from molmo_ros.datatypes import AnyArray
from molmo_ros.network.precision import pack_int4
from molmo_ros.quantise.layer import Layer
from molmo_ros.quantise.rounding import Rounded
from molmo_ros.runtimes.engine_store import checkpoint_hash

# The files of a checkpoint besides its weights, as far as anything here reads them.
COPIED = (
    "config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "generation_config.json", "calibration.json", "chat_template.json",
)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What a layer's file holds: facts on its matrices by name, and the names of folded tensors."""

    matrices: dict[str, dict[str, Any]]
    folded: list[str]


def layer_file(folder: Path, index: int) -> Path:
    return folder / f"layer-{index:03d}.safetensors"


def head_file(folder: Path) -> Path:
    """Not there where the head was not calibrated."""
    return folder / "head.safetensors"


def write_layer(path: Path, layer: Layer) -> None:
    """Integers and scales as graphs lay them out; the file appears when it is complete."""
    from safetensors.numpy import save_file

    tensors: dict[str, AnyArray] = {name + FOLDED: tensor for name, tensor in layer.folded.items()}
    facts: dict[str, dict[str, Any]] = {}
    for name, rounded in layer.matrices.items():
        tensors[name + VALUES], tensors[name + SCALES] = _laid(rounded)
        facts[name] = _fact(layer, name, rounded.grid.bits, rounded.values.shape)
    for name, experts in layer.experts.items():
        parts = [_laid(one) for one in experts]
        tensors[name + VALUES], tensors[name + SCALES] = (np.stack(part) for part in zip(*parts, strict=True))
        facts[name] = _fact(layer, name, 8, (len(experts), *experts[0].values.shape))
    unfinished = path.with_suffix(".unfinished")
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, unfinished, metadata={"matrices": json.dumps(facts)})
    os.replace(unfinished, path)


def read_layer(path: Path) -> Written:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["matrices"])
        return Written(facts, [n.removesuffix(FOLDED) for n in file.keys() if n.endswith(FOLDED)])  # noqa: SIM118


def finish(checkpoint: Checkpoint, folder: Path, precision: str, facts: dict[str, object]) -> None:
    """Copy the small files and write ``quantised.json``, last: with it the folder is a checkpoint."""
    for name in COPIED:
        if (checkpoint.folder / name).is_file():
            shutil.copy(checkpoint.folder / name, folder / name)
    matrices: dict[str, Any] = {}
    folded: dict[str, str] = {}
    layers = [layer_file(folder, index) for index in range(checkpoint.config.text.num_layers)]
    for path in [*layers, *(one for one in [head_file(folder)] if one.is_file())]:
        written = read_layer(path)
        matrices |= {name: {**fact, "file": path.name} for name, fact in written.matrices.items()}
        folded |= dict.fromkeys(written.folded, path.name)
    content = {
        "format": FORMAT, "precision": precision, "checkpoint": str(checkpoint.folder.resolve()),
        "checkpoint_hash": checkpoint_hash(checkpoint), "facts": facts, "matrices": matrices,
        "folded": folded,
    }  # fmt: skip
    unfinished = folder / f".{QUANTISED}"
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / QUANTISED)


def _laid(rounded: Rounded) -> tuple[AnyArray, AnyArray]:
    """Integers (in,out), two in a byte for 4 bits, and scales (in/block,out), or (out,) for 8 bits with one
    for each output."""
    values = np.ascontiguousarray(rounded.values.T)
    if rounded.grid.bits == 8:
        return values, rounded.scales[:, 0] if rounded.scales.shape[1] == 1 else rounded.scales.T
    return np.frombuffer(pack_int4(values), np.uint8), rounded.scales.T


def _fact(layer: Layer, name: str, bits: int, shape: tuple[int, ...]) -> dict[str, Any]:
    error, nearest = layer.errors[name]
    return {"kind": f"int{bits}", "shape": list(shape), "error": error, "error_nearest": nearest}
