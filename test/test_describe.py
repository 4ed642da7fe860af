"""Sizes against published ones, and reasons why a runtime cannot serve."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_official import OFFICIAL
from tiny_molmo1 import MIXTURE, QWEN2
from tiny_molmo1 import write_checkpoint as write_v1
from tiny_molmo_point import write_checkpoint as write_point

from molmo_ros.checkpoint.checkpoint import load_checkpoint
from molmo_ros.network.precision import GPU_PRECISIONS
from molmo_ros.network.read_config import parse_config
from molmo_ros.runtimes.describe import (
    generation,
    graph_bytes,
    kv_bytes_per_token,
    memory_bytes,
    runtimes_here,
    weight_bytes,
)
from molmo_ros.runtimes.export import export

GIB = 2**30
# GiB of all weights in bf16, int8, int4 (the text model's matrices and head rounded), KiB of cache per token.
PUBLISHED = {
    "Molmo-7B-O-0924": (14.3, 7.9, 5.1, 512), "Molmo-7B-D-0924": (14.9, 8.4, 5.5, 56),
    "Molmo-72B-0924": (136.5, 70.0, 40.9, 320), "Molmo2-4B": (9.0, 5.3, 3.7, 144),
    "Molmo2-8B": (16.1, 9.1, 6.0, 144), "Molmo2-O-7B": (14.5, 8.0, 5.2, 512),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes(name: str) -> None:
    config = parse_config(OFFICIAL[name])
    *weights, cache = PUBLISHED[name]
    text = config.text
    table = 2 * (text.vocab_size + text.extra_vocab_size) * text.hidden_size  # stays on disk with us
    for precision, size in zip(("bf16", "int8", "int4"), weights, strict=True):
        held = replace(GPU_PRECISIONS[precision], head="" if precision == "bf16" else precision)
        ours = weight_bytes(config, held) + table
        if precision == "int4":  # published with 4.5 bits a weight; ours has longer blocks: 4.125
            assert 0.9 * size < ours / GIB < size
        else:
            assert ours / GIB == pytest.approx(size, rel=0.02, abs=0.06), precision
    assert kv_bytes_per_token(config, GPU_PRECISIONS["bf16"]) == cache * 1024


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
@pytest.mark.parametrize(
    "write", [write_point, lambda path: write_v1(path, MIXTURE)], ids=["point", "mixture"]
)
def test_graphs_are_as_large_as_they_are_said_to_be(write: Any, precision: str, tmp_path: Path) -> None:
    """What compiling them takes is told from it; a GPU's experts are not rounded."""
    checkpoint, held = load_checkpoint(str(write(tmp_path / "ckpt"))), GPU_PRECISIONS[precision]
    export(checkpoint, tmp_path / "graphs", held)
    for part, expected in graph_bytes(checkpoint.config, held).items():
        size = sum(path.stat().st_size for path in (tmp_path / "graphs").glob(f"{part}.data"))
        assert size == pytest.approx(expected, rel=0.1), part  # small ones lie in the graph itself


def test_memory_grows_with_the_context() -> None:
    config = parse_config(OFFICIAL["Molmo2-4B"])
    row = memory_bytes(config)["int4"]
    assert list(row) == ["1024", "2048", "4096", "36864"]
    assert row["2048"] - row["1024"] == 1024 * 144 * 1024


def test_generations() -> None:
    found = [
        generation(parse_config(OFFICIAL[n])) for n in ("MolmoE-1B-0924", "Molmo-7B-D-0924", "Molmo2-4B")
    ]
    assert [*found, generation(parse_config(OFFICIAL["MolmoPoint-8B"]))] == [
        "MolmoE", "Molmo v1", "Molmo2", "MolmoPoint",
    ]  # fmt: skip


@pytest.mark.parametrize("fields", [QWEN2, MIXTURE], ids=["dense", "mixture"])
def test_runtimes_of_v1(fields: dict[str, Any], tmp_path: Path) -> None:
    reasons = runtimes_here(load_checkpoint(str(write_v1(tmp_path / "v1", fields))))
    assert reasons["onnx"] == "" and reasons["eager"].startswith("transformers has no Molmo")
    assert ("mixture of experts" in reasons["openvino"]) == (fields is MIXTURE)
    assert reasons["tensorrt"]  # no engine was built for it, whether or not TensorRT is here


def test_too_large_for_this_machine() -> None:
    """A model of ten thousand times the size of the largest."""
    checkpoint = load_checkpoint("tiny")
    config = parse_config(OFFICIAL["Molmo-72B-0924"])
    huge = replace(config, text=replace(config.text, intermediate_size=2 * 10**8))
    assert "GB of memory are free" in runtimes_here(replace(checkpoint, config=huge))["onnx"]


def test_runtimes_of_molmopoint(tmp_path: Path) -> None:
    reasons = runtimes_here(load_checkpoint(str(write_point(tmp_path / "point"))))
    assert reasons["onnx"] == "" and reasons["eager"] == "transformers has no MolmoPoint"
    assert reasons["openvino"] in ("", "openvino not installed")


def test_a_download_that_fails_says_so(tmp_path: Path) -> None:
    """The hub is a closed port of this machine; without permission it is not even asked."""
    pytest.importorskip("huggingface_hub")
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "molmo_ros.cli", "info", "nobody/none"]
    for option, message in (((), "hf download"), (("--allow-download",), "cannot be fetched")):
        done = subprocess.run([*command, *option], env=environment, capture_output=True, text=True)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
