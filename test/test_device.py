"""The loop around an engine on a device, over the host's memory and ONNX Runtime's CPU provider."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generations import GENERATIONS
from passes import assert_same_answers, run_logits
from tiny_molmo2 import write_checkpoint

from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.errors import CancelledError, QueryError, RuntimeUnavailableError
from molmo_ros.network.graph import WeightSink
from molmo_ros.network.precision import CUDA_PRECISIONS
from molmo_ros.runtimes import cuda_ort
from molmo_ros.runtimes.base import Runtime
from molmo_ros.runtimes.cuda_ort import load_cuda
from molmo_ros.runtimes.device import DeviceRuntime
from molmo_ros.runtimes.export import build_graph
from molmo_ros.runtimes.memory import HostMemory, Tensor
from molmo_ros.runtimes.select import load_runtime
from molmo_ros.sim import SimCamera


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(write_checkpoint(tmp_path_factory.mktemp("device") / "ckpt")))


def pictures(count: int) -> list[Any]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (90, 120, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_same_tokens_as_onnx(generation: str, tmp_path: Path) -> None:
    """First and second question on a picture, with drafts and without; then a picture seen before."""
    checkpoint = load_checkpoint(str(GENERATIONS[generation](tmp_path / "ckpt")))
    memory = HostMemory()
    expected = Molmo(checkpoint, load_runtime(checkpoint, "onnx", threads=1))
    found = Molmo(checkpoint, load_cuda(checkpoint, memory=memory))
    first, second = pictures(2)
    assert_same_answers(expected, found, (first, second))
    found.close()
    assert memory.held == 0


def test_the_built_in_model_says_the_same() -> None:
    checkpoint = load_checkpoint("tiny")
    expected = Molmo(checkpoint, load_runtime(checkpoint, "onnx"))
    found = Molmo(checkpoint, on_host(checkpoint))
    camera = SimCamera(3)
    rgb = camera.frame().rgb
    for thing in camera.truth.objects:
        prompt = f"Point to the {thing.name}."
        assert expected.answer(rgb, prompt).token_ids == found.answer(rgb, prompt).token_ids


def test_two_sequences_share_the_slab(checkpoint: Checkpoint) -> None:
    """In alternation, trimmed in between: each continues as if it were alone."""
    reference, found = load_runtime(checkpoint, "onnx", threads=1), on_host(checkpoint)
    rng = np.random.default_rng(0)
    width = checkpoint.config.text.hidden_size
    caches = [(reference.new_cache(), found.new_cache()) for _ in range(3)]
    for step in range(12):
        which = int(rng.integers(3))
        embeds = rng.standard_normal((int(rng.integers(1, 40)), width), dtype=np.float32)
        pair = caches[which]
        if step % 3 == 2:
            shorter = max(pair[0].length - 5, 0)
            for cache in pair:
                cache.trim(shorter)
        a, b = (follow(r, embeds, cache) for r, cache in zip((reference, found), pair, strict=True))
        assert np.abs(a - b).max() < 1e-4 and pair[0].length == pair[1].length


def follow(runtime: Runtime, embeds: Any, cache: Any) -> Any:
    limits = np.arange(cache.length + 1, cache.length + 1 + len(embeds))
    return run_logits(runtime, embeds, limits, cache, np.array([len(embeds) - 1]))


def on_host(checkpoint: Checkpoint) -> DeviceRuntime:
    return load_cuda(checkpoint, memory=HostMemory())


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_cancel_and_ask_again(passes: int, checkpoint: Checkpoint) -> None:
    """Before vision, after it, and between two tokens; what follows is what a fresh model says."""
    found, expected = (
        Molmo(checkpoint, on_host(checkpoint)),
        Molmo(checkpoint, load_runtime(checkpoint, "onnx")),
    )
    (rgb,), asked = pictures(1), [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] > 2 * passes

    with pytest.raises(CancelledError):
        found.answer(rgb, "Point to the mug.", max_new_tokens=24, drafts=False, should_stop=stop)
    for prompt in ("Point to the mug.", "Point to the red bowl."):
        a, b = (m.answer(rgb, prompt, max_new_tokens=24) for m in (expected, found))
        assert a.token_ids == b.token_ids


@pytest.mark.parametrize("generation", GENERATIONS)
def test_warm_up_changes_no_answer(generation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_ort, "CAPACITY", 300)
    checkpoint = load_checkpoint(str(GENERATIONS[generation](tmp_path / "ckpt")))
    (rgb,), said = pictures(1), []
    for warm in (False, True):
        runtime = on_host(checkpoint)
        if warm:
            runtime.warm_up(checkpoint)
        said.append(Molmo(checkpoint, runtime).answer(rgb, "Point to the mug.", max_new_tokens=12).token_ids)
    assert said[0] == said[1]


def test_waiting_caches_are_freed(checkpoint: Checkpoint) -> None:
    memory = HostMemory()
    runtime = load_cuda(checkpoint, memory=memory)
    embeds = np.ones((8, checkpoint.config.text.hidden_size), np.float32)
    first, second = runtime.new_cache(), runtime.new_cache()
    follow(runtime, embeds, first)
    before = memory.held
    follow(runtime, embeds, second)
    assert memory.held == before + first.nbytes
    del first
    assert memory.held == before
    runtime.close()
    assert memory.held == 0


def test_a_full_cache_is_told(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_ort, "CAPACITY", 70)
    runtime = on_host(checkpoint)
    cache = runtime.new_cache()
    width = checkpoint.config.text.hidden_size
    reference = load_runtime(checkpoint, "onnx", threads=1)
    twin = reference.new_cache()
    for count in (60, 9, 1):  # short passes are not padded beyond the end
        embeds = np.random.default_rng(count).standard_normal((count, width), dtype=np.float32)
        assert np.abs(follow(runtime, embeds, cache) - follow(reference, embeds, twin)).max() < 1e-4
    with pytest.raises(QueryError, match=r"more than the 70 tokens that cuda holds; shorten"):
        follow(runtime, np.ones((1, width), np.float32), cache)
    assert cache.length == 70


@pytest.mark.parametrize("step", ["vision", "decoder", "slab", "slots"])
def test_a_failure_while_loading_leaves_nothing(
    step: str, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, closed = HostMemory(), []
    if step in ("vision", "decoder"):

        def source(checkpoint: Checkpoint, part: str, held: Any) -> Any:
            return b"no graph" if part == step else build_graph(checkpoint, part, WeightSink(), held)

        monkeypatch.setattr(cuda_ort, "graph_source", source)
        error: type[Exception] = RuntimeUnavailableError
    else:
        real, left = memory.take, [0 if step == "slab" else 1]

        def take(size: int) -> int:
            if left[0] == 0:
                raise MemoryError("none left")
            left[0] -= 1
            return real(size)

        monkeypatch.setattr(memory, "take", take)
        error = MemoryError
    close = cuda_ort.OrtEngine.close
    monkeypatch.setattr(cuda_ort.OrtEngine, "close", lambda self: (closed.append(self), close(self)))
    with pytest.raises(error):
        load_cuda(checkpoint, memory=memory)
    assert memory.held == 0
    assert len(closed) == {"vision": 0, "decoder": 1}.get(step, 2)


def test_a_failed_pass_leaves_the_cache(checkpoint: Checkpoint) -> None:
    runtime = on_host(checkpoint)
    cache = runtime.new_cache()
    width = checkpoint.config.text.hidden_size
    embeds = np.random.default_rng(1).standard_normal((70, width), dtype=np.float32)
    follow(runtime, embeds, cache)
    with pytest.raises(RuntimeUnavailableError, match="ONNX Runtime failed on cpu"):
        runtime.run(embeds, np.arange(71, 141), cache, np.array([10**6]))  # there is no such row
    assert cache.length == 70


def test_without_a_gpu_it_is_told(checkpoint: Checkpoint) -> None:
    import onnxruntime

    if cuda_ort.PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(RuntimeUnavailableError, match=r"one for CPUs: .*pip install 'onnxruntime-gpu"):
        load_runtime(checkpoint, "cuda")
    with pytest.raises(RuntimeUnavailableError, match="Runtime cuda has no int8_dynamic; choose one of fp32"):
        load_cuda(checkpoint, "int8_dynamic", memory=HostMemory())


@pytest.mark.parametrize("precision", CUDA_PRECISIONS)
def test_no_operator_needs_the_host_while_it_runs(precision: str, checkpoint: Checkpoint) -> None:
    """What ONNX Runtime's CUDA provider has in bf16, and what can be captured as a CUDA graph."""
    import onnx

    graph = onnx.load_from_string(
        build_graph(checkpoint, "decoder", WeightSink(), CUDA_PRECISIONS[precision])
    ).graph
    kinds = {node.op_type for node in graph.node}
    assert kinds.isdisjoint({"Split", "Shape", "Range", "If"})
    assert kinds <= {
        "Add", "ArgMax", "Cast", "Concat", "FusedMatMul", "Gather", "GatherElements", "Identity", "Less",
        "LogSoftmax", "MatMul", "MatMulNBits", "Mul", "QuickGelu", "Reshape", "RotaryEmbedding", "ScatterND",
        "SimplifiedLayerNormalization", "Softmax", "Transpose", "Unsqueeze", "Where",
    }  # fmt: skip
    # of unequal parts, Concat would take its addresses from the host
    assert all(len(set(node.input)) == 1 for node in graph.node if node.op_type == "Concat")


def test_host_memory_copies_rows() -> None:
    memory = HostMemory()
    a, b = memory.take(12), memory.take(12)
    memory.upload(np.arange(12, dtype=np.uint8), a)
    memory.copy_rows(b + 1, 6, a + 2, 4, 2, 2)
    assert memory.download(Tensor(b, (12,), "uint8")).tolist() == [0, 2, 3, 0, 0, 0, 0, 6, 7, 0, 0, 0]
    memory.free(a)
    assert memory.held == 12


def test_report_over_the_hosts_memory(tmp_path: Path) -> None:
    """Every step of what is run on a GPU, with small models; numbers are kept if a later step fails."""
    from molmo_ros.tools.device_report import Settings, device_report, text

    settings = Settings(
        ("fp32",), ("fp32", "int4", "fp7"), scenes=1, repeat=1, host=True, kernels=False, transformers=False,
        model=lambda path: load_checkpoint(str(write_checkpoint(path))), folder=tmp_path,
    )  # fmt: skip
    found = device_report(tmp_path / "report.json", settings)
    assert found["tiny fp32"]["same"] == found["tiny fp32"]["same_with_drafts"] == 1.0
    assert found["large fp32"]["passes"] <= 8 and found["large fp32"]["ms_pass_16"] > 0
    assert found["large int4"]["passes"] <= 8
    assert "Runtime cuda has no fp7" in found["large fp7"]["error"]
    assert json.loads((tmp_path / "report.json").read_text())["large fp32"] == found["large fp32"]
    assert "ms_points_p50" in text(found)
