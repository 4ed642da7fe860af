"""The TensorRT runtime over the host's memory: see ``host_trt`` for what stands for TensorRT."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import host_trt
import numpy as np
import pytest
from generations import GENERATIONS
from host_trt import Context, CountedMemory, Ledger, write_engine
from passes import assert_same_answers, run_logits
from tiny_molmo2 import write_checkpoint

from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.errors import EngineMismatchError, QueryError
from molmo_ros.runtimes import trt
from molmo_ros.runtimes.base import Runtime
from molmo_ros.runtimes.device import DeviceRuntime
from molmo_ros.runtimes.engine_store import MANIFEST
from molmo_ros.runtimes.memory import HostMemory
from molmo_ros.runtimes.select import load_runtime
from molmo_ros.runtimes.trt import load_tensorrt


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(write_checkpoint(tmp_path_factory.mktemp("trt") / "ckpt")))


@pytest.fixture(scope="module")
def home(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("engines")
    write_engine(checkpoint, home / "one")
    return home


@pytest.fixture
def load(home: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DeviceRuntime]:
    """Loads the engine with what stands for TensorRT; ``memory`` by default one that counts."""

    def load(ledger: Ledger, memory: HostMemory | None = None) -> DeviceRuntime:
        monkeypatch.setenv("MOLMO_ROS_ENGINES", str(home))
        monkeypatch.setattr(trt, "_module", lambda name: host_trt.module(ledger))
        return load_tensorrt(checkpoint, "tensorrt", memory=memory or CountedMemory(ledger))

    return load


@pytest.mark.parametrize("generation", GENERATIONS)
def test_same_tokens_as_onnx(generation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First and second question on a picture, with drafts and without; then a picture seen before."""
    checkpoint = load_checkpoint(str(GENERATIONS[generation](tmp_path / "ckpt")))
    write_engine(checkpoint, tmp_path / "engines" / "one")
    ledger, memory = Ledger(), HostMemory()
    monkeypatch.setenv("MOLMO_ROS_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setattr(trt, "_module", lambda name: host_trt.module(ledger))
    expected = Molmo(checkpoint, load_runtime(checkpoint, "onnx", threads=1))
    found = Molmo(checkpoint, load_tensorrt(checkpoint, "tensorrt", memory=memory))
    first, second = np.random.default_rng(3).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
    assert_same_answers(expected, found, (first, second))
    found.close()
    assert memory.held == 0 and not +ledger.alive


def test_a_failure_in_any_step_leaves_nothing(load: Callable[..., DeviceRuntime]) -> None:
    """Plans, contexts, profiles, memory: each step of loading fails once, and nothing stays allocated."""
    ledger = Ledger()
    runtime = load(ledger)
    assert ledger.alive == {"Engine": 2, "Context": 3}  # vision has one profile, the decoder two
    runtime.close()
    steps = ledger.steps
    assert steps == 2 + 2 * 3 + 2  # plans, contexts with their profiles, the slab and its places
    for step in range(steps):
        ledger = Ledger(fail_at=step)
        memory = CountedMemory(ledger)
        with pytest.raises(Exception, match=r"loaded by|no memory|none left"):
            load(ledger, memory)
        gc.collect()
        assert memory.held == 0 and not +ledger.alive, step


def follow(runtime: Runtime, embeds: Any, cache: Any, rows: int = 1) -> Any:
    limits = np.arange(cache.length + 1, cache.length + 1 + len(embeds))
    return run_logits(runtime, embeds, limits, cache, np.arange(len(embeds) - rows, len(embeds)))


def test_more_rows_than_the_engine_holds(load: Callable[..., DeviceRuntime], checkpoint: Checkpoint) -> None:
    """A long first draft, such as the answer about the frame before, goes through in parts."""
    runtime, reference = load(Ledger()), load_runtime(checkpoint, "onnx", threads=1)
    embeds = np.random.default_rng(0).standard_normal(
        (150, checkpoint.config.text.hidden_size), dtype=np.float32
    )
    cache, twin = runtime.new_cache(), reference.new_cache()
    a, b = follow(runtime, embeds, cache, rows=61), follow(reference, embeds, twin, rows=61)
    assert a.shape == b.shape and np.abs(a - b).max() < 1e-4
    assert cache.length == twin.length == 150


def test_two_sequences_trimmed_in_between(load: Callable[..., DeviceRuntime], checkpoint: Checkpoint) -> None:
    runtime, reference = load(Ledger()), load_runtime(checkpoint, "onnx", threads=1)
    caches = [(reference.new_cache(), runtime.new_cache()) for _ in range(2)]
    rng = np.random.default_rng(1)
    for step in range(8):
        pair = caches[step % 2]
        embeds = rng.standard_normal((int(rng.integers(1, 40)), checkpoint.config.text.hidden_size))
        shorter = max(pair[0].length - 3, 0)
        for cache in pair:
            cache.trim(shorter)
        a, b = (
            follow(r, embeds.astype(np.float32), c) for r, c in zip((reference, runtime), pair, strict=True)
        )
        assert np.abs(a - b).max() < 1e-4


def test_a_full_cache_is_told(load: Callable[..., DeviceRuntime], checkpoint: Checkpoint) -> None:
    runtime = load(Ledger())
    embeds = np.ones((500, checkpoint.config.text.hidden_size), np.float32)
    cache = runtime.new_cache()
    follow(runtime, embeds, cache)
    with pytest.raises(QueryError, match=r"more than the 512 tokens .* engine with a larger --sequence"):
        follow(runtime, embeds[:13], cache)
    follow(runtime, embeds[:12], cache)
    assert cache.length == 512


class Capturing(HostMemory):
    """Graphs are lists of the work that was queued."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs, self.launched = 0, 0

    def capture(self, queue: Callable[[], None]) -> Any:
        Context.recording = []
        try:
            queue()
            graph, Context.recording = Context.recording, None
        finally:
            Context.recording = None
        self.graphs += 1
        return graph

    def launch(self, graph: Any) -> None:
        self.launched += 1
        for work in graph:
            work()

    def forget(self, graph: Any) -> None:
        self.graphs -= 1


def test_captured_passes_are_replayed(load: Callable[..., DeviceRuntime], checkpoint: Checkpoint) -> None:
    """After the warm-up, every short pass is a replay, and says the same."""
    memory = Capturing()
    runtime = load(Ledger(), memory)
    runtime.warm_up(checkpoint)
    graphs = memory.graphs
    assert graphs == len(trt.LENGTHS) * 2 and not memory.launched  # 512 places, two buckets of 256
    expected, found = (
        Molmo(checkpoint, load_runtime(checkpoint, "onnx", threads=1)),
        Molmo(checkpoint, runtime),
    )
    for rgb in np.random.default_rng(3).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8):
        a, b = (m.answer(rgb, "Point to the mug.", max_new_tokens=12) for m in (expected, found))
        assert a.token_ids == b.token_ids and b.passes > 2
    assert memory.launched > 4 and memory.graphs == graphs
    found.close()
    assert memory.graphs == 0 and memory.held == 0


def test_kernels_of_rtx_are_kept(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What TensorRT for RTX compiles for the GPU goes into a file beside the engine, and comes from there."""
    seen: list[bytes] = []
    kernels = SimpleNamespace(
        deserialize=lambda blob: seen.append(blob) or True, serialize=lambda: b"compiled"
    )
    config = SimpleNamespace(create_runtime_cache=lambda: kernels, set_runtime_cache=lambda given: True)
    monkeypatch.setattr(host_trt.Engine, "create_runtime_config", lambda self: config, raising=False)
    strategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    module = host_trt.module(Ledger(), "tensorrt_rtx", CudaGraphStrategy=strategy)
    write_engine(checkpoint, tmp_path / "engines" / "one", "tensorrt_rtx")
    path = tmp_path / "engines" / "one" / "vision.engine"
    for known in ([], [b"compiled"]):
        opened = trt.TensorRt.open(module)
        profiles = json.loads((path.parent / MANIFEST).read_text())["profiles"]["vision"]
        engine = trt.TrtEngine(opened, path, profiles, HostMemory())
        assert seen == known and config.cuda_graph_strategy == "whole"
        engine.save_kernels()
        engine.close()
        assert path.with_suffix(".jit").read_bytes() == b"compiled"


def test_engines_of_other_graphs_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that do not put out the choice of the next token, for example."""
    folder = write_engine(checkpoint, tmp_path / "engines" / "one")
    fields = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(fields | {"graph_version": 4}))
    monkeypatch.setenv("MOLMO_ROS_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setattr(trt, "_module", lambda name: host_trt.module(Ledger()))
    with pytest.raises(
        EngineMismatchError, match=r"graphs of version 4, this molmo_ros runs 5; build one .*engine build"
    ):
        load_tensorrt(checkpoint, "tensorrt", memory=HostMemory())
