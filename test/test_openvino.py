"""Runtime openvino: the same numbers as ONNX Runtime, and which of them is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_molmo1
import tiny_molmo_point
from passes import run_logits
from tiny_molmo2 import OLMO, QWEN, write_checkpoint

from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.runtimes import graphs
from molmo_ros.runtimes.base import Cache, Runtime
from molmo_ros.runtimes.select import load_runtime

openvino = pytest.importorskip("openvino", reason="openvino is not installed; there are wheels for x86-64")
BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

RGB = np.random.default_rng(3).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=["molmo2 qwen", "molmo2 olmo", "v1"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("openvino") / "ckpt"
    return load_checkpoint(str({
        "molmo2 qwen": lambda: write_checkpoint(folder, QWEN),
        "molmo2 olmo": lambda: write_checkpoint(folder, OLMO),
        "v1": lambda: tiny_molmo1.write_checkpoint(folder),
    }[request.param]()))  # fmt: skip


def forward(runtime: Runtime, cache: Cache, count: int, rows: list[int]) -> np.ndarray:
    """Logits of some of ``count`` tokens after what is in the cache."""
    past = cache.length
    embeds = runtime.embed([(7 * i) % 290 for i in range(past, past + count)])
    limits = np.arange(past + 1, past + count + 1, dtype=np.int64)
    return run_logits(runtime, embeds, limits, cache, np.array(rows, dtype=np.int64))


def test_logits_as_onnx(checkpoint: Checkpoint) -> None:
    """Prefill, decode, two caches in turn, and a trimmed one; beyond the first growth of the cache."""
    found = []
    for name in ("onnx", "openvino"):
        runtime = load_runtime(checkpoint, name, "fp32", threads=1)
        cache = runtime.new_cache()
        logits = [forward(runtime, cache, 300, [0, 150, 299]), forward(runtime, cache, 1, [0])]
        other = runtime.new_cache()
        logits += [forward(runtime, other, 305, [302, 304])]
        cache.trim(130)
        logits += [forward(runtime, cache, 2, [1]), forward(runtime, other, 1, [0])]
        assert (cache.length, other.length) == (132, 306)
        found.append(logits)
        runtime.close()
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_answers_as_onnx(checkpoint: Checkpoint) -> None:
    compare_answers(checkpoint)


def test_answers_of_molmo_point_as_onnx(tmp_path: Path) -> None:
    compare_answers(load_checkpoint(str(tiny_molmo_point.write_checkpoint(tmp_path / "ckpt"))))


def compare_answers(checkpoint: Checkpoint) -> None:
    answers = []
    for name in ("onnx", "openvino"):
        molmo = Molmo(checkpoint, load_runtime(checkpoint, name, "fp32", threads=1))
        answers.append([molmo.answer(RGB, p, max_new_tokens=8).token_ids for p in ("Point to it.", "What?")])
        molmo.close()
    assert answers[0] == answers[1]


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_rounded_is_near(precision: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(write_checkpoint(tmp_path / "ckpt")))
    if precision == "bf16" and not BF16:
        with pytest.raises(RuntimeUnavailableError, match="does not multiply in bf16; choose fp32"):
            load_runtime(checkpoint, "openvino", precision)
        return
    logits = []
    for held in ("fp32", precision):
        runtime = load_runtime(checkpoint, "openvino", held, threads=1)
        logits.append(forward(runtime, runtime.new_cache(), 40, [39])[0])
    exact, rounded = logits
    assert not np.array_equal(exact, rounded)
    cosine = exact @ rounded / (np.linalg.norm(exact) * np.linalg.norm(rounded))
    assert cosine > (0.95 if precision == "int4" else 0.999)


def test_experts_stay_with_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(str(tiny_molmo1.write_checkpoint(tmp_path / "ckpt", tiny_molmo1.MIXTURE)))
    with pytest.raises(RuntimeUnavailableError, match="mixture of experts; choose runtime onnx"):
        load_runtime(checkpoint, "openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(graphs, "IN_MEMORY_PARAMETERS", 1000)
    assert load_runtime(checkpoint, precision="fp32").name == "onnx"


def test_auto_takes_it_for_large_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(str(write_checkpoint(tmp_path / "ckpt")))
    assert load_runtime(checkpoint).name == "onnx"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(graphs, "IN_MEMORY_PARAMETERS", 1000)
    monkeypatch.setattr("molmo_ros.runtimes.ov.IN_MEMORY_PARAMETERS", 1000)
    runtime = load_runtime(checkpoint)
    assert (runtime.name, runtime.precision) == ("openvino", "bf16" if BF16 else "int8")
    assert load_runtime(checkpoint, precision="int8_dynamic").name == "onnx"
    with pytest.raises(RuntimeUnavailableError, match="OpenVINO has no fp16 here; choose one of fp32, bf16"):
        load_runtime(checkpoint, "openvino", "fp16")
