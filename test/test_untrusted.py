"""Untrusted files that are made to break their readers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from molmo_ros.answer.calibration import Calibration
from molmo_ros.checkpoint.checkpoint import load_checkpoint, resolve
from molmo_ros.errors import (
    CameraInfoError,
    CheckpointError,
    EngineError,
    MolmoRosError,
    ParameterError,
)
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.perception.camera_info import load_camera_info
from molmo_ros.runtimes.engine_store import read_manifest
from molmo_ros.tools.recipes import load_recipe
from molmo_ros.untrusted import YAML_BYTES, parse_yaml

BILLION = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP_YAML = "a: " + "[" * 20_000
DEEP_JSON = "[" * 200_000
READERS: dict[str, tuple[Callable[[Path], Any], type[MolmoRosError]]] = {
    "camera_info": (load_camera_info, CameraInfoError),
    "gripper": (Gripper.load, ParameterError),
    "recipe": (lambda path: load_recipe(str(path)), ParameterError),
}


@pytest.mark.parametrize("text", [BILLION, DEEP_YAML, "a: 1\n" * 50_000], ids=["aliases", "deep", "long"])
@pytest.mark.parametrize("kind", READERS)
def test_yaml_that_would_explode_is_refused_at_once(kind: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    read, error = READERS[kind]
    start = time.thread_time()
    with pytest.raises(error, match=r"alias|deep|bytes"):
        read(path)
    assert time.thread_time() - start < 0.5


@pytest.mark.parametrize("kind", READERS)
def test_yaml_whose_values_no_python_type_holds(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    read, error = READERS[kind]
    for text in ("2001-99-99", "9" * 5000, "!!binary 'x'", "!!python/x 1", "\x00", "\n? [1]\n: 2"):
        path.write_text("a: " + text)
        with pytest.raises(error):
            read(path)


def test_yaml_in_the_limits_is_read() -> None:
    assert parse_yaml("a: 1\nb: [1, {c: 2}]\n---\nnext") == {"a": 1, "b": [1, {"c": 2}]}
    assert parse_yaml("") is None
    assert parse_yaml("# " + "x" * (YAML_BYTES - 10)) is None


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the built-in checkpoint, of links; a test replaces files."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in resolve("tiny").iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def rewrite(path: Path, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    path.unlink()
    path.write_text(text)


@pytest.mark.parametrize("name", ["config", "preprocessor_config", "tokenizer_config", "generation_config"])
def test_deep_json_in_a_checkpoint(name: str, checkpoint: Path) -> None:
    path = checkpoint / f"{name}.json"
    path.unlink(missing_ok=True)
    path.write_text(DEEP_JSON)
    with pytest.raises(CheckpointError, match=f"{name}.*deep"):
        load_checkpoint(str(checkpoint))


def test_deep_json_in_calibration_index_and_manifest(checkpoint: Path) -> None:
    rewrite(checkpoint / "calibration.json", DEEP_JSON)
    with pytest.raises(CheckpointError, match="deep"):
        Calibration.load(checkpoint)
    (checkpoint / "model.safetensors.index.json").write_text(DEEP_JSON)
    with pytest.raises(CheckpointError, match="deep"):
        load_checkpoint(str(checkpoint))
    (checkpoint / "manifest.json").write_text(DEEP_JSON)
    with pytest.raises(EngineError, match="deep"):
        read_manifest(checkpoint)


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999", "0", "-1", "1000000000"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_numbers_that_cannot_be(name: str, number: str, checkpoint: Path) -> None:
    """In place of each number of both files in turn: one of our errors, unless nothing reads the number."""
    fields = json.loads((checkpoint / name).read_text())
    for place in _numbers(fields):
        changed = json.loads(json.dumps(fields))
        _at(changed, place[:-1])[place[-1]] = "HERE"
        rewrite(checkpoint / name, json.dumps(changed).replace('"HERE"', number))
        with suppress(CheckpointError):
            load_checkpoint(str(checkpoint))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_lists_that_are_empty(name: str, checkpoint: Path) -> None:
    fields = json.loads((checkpoint / name).read_text())
    fields.get("vit_config", {})["image_default_input_size"] = [378, 378]  # as the official files have it
    for part in (fields, *(inner for inner in fields.values() if isinstance(inner, dict))):
        for key, kept in part.items():
            if isinstance(kept, list):
                part[key] = []
                rewrite(checkpoint / name, fields)
                with suppress(CheckpointError):
                    load_checkpoint(str(checkpoint))
                part[key] = kept


@pytest.mark.parametrize(
    ("name", "place", "values"),
    [
        ("config.json", ("text_config", "rope_theta"), (-1, 0, 1, float("nan"), float("inf"))),
        ("config.json", ("text_config", "layer_norm_eps"), (-1, 1, float("nan"))),
        ("config.json", ("vit_config", "layer_norm_eps"), (float("nan"),)),
        ("config.json", ("text_config", "num_hidden_layers"), (0, -3, 10**9)),
        ("config.json", ("text_config", "vocab_size"), (0, -1, 10**12)),
        ("preprocessor_config.json", ("image_mean", 0), (-1, 2, float("nan"))),
        ("preprocessor_config.json", ("image_std", 1), (-1, 0, float("nan"), float("inf"))),
        ("preprocessor_config.json", ("patch_size",), (0, -14, 10**6)),
        ("preprocessor_config.json", ("max_crops",), (-1, 10**6)),
    ],
)
def test_numbers_that_make_no_sense_are_named(
    name: str, place: tuple[Any, ...], values: tuple[float, ...], checkpoint: Path
) -> None:
    fields = json.loads((checkpoint / name).read_text())
    word = str(next(key for key in reversed(place) if isinstance(key, str))).split("_")[-1]
    for value in values:
        _at(fields, place[:-1])[place[-1]] = value
        rewrite(checkpoint / name, fields)
        with pytest.raises(CheckpointError, match=rf"{name}.*{word}"):
            load_checkpoint(str(checkpoint))


def _numbers(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(inner, (int, float)) and not isinstance(inner, bool):
            yield (*place, key)
        yield from _numbers(inner, (*place, key))


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


@pytest.mark.parametrize(
    "name", ["x" * 300, "/" + "x" * 5000, "~nobody-of-this-name/x", "a\0b", "owner/" + "x" * 300, "\ud800/x"]
)
def test_odd_names_of_checkpoints(name: str) -> None:
    with pytest.raises(CheckpointError):
        load_checkpoint(name)


@pytest.mark.parametrize("shard", ["x" * 300, "..", ".", "", "a\0b", "/etc/passwd", "../x"])
def test_odd_names_of_shards(shard: str, checkpoint: Path) -> None:
    index = {"weight_map": {"model.transformer.wte.embedding": shard}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError):
        load_checkpoint(str(checkpoint))
