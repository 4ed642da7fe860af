"""TensorRT's interface on the host: its plans are ONNX graphs, executed by ONNX Runtime at host addresses.

TensorRT itself executes nothing without a GPU. So this tests all of our code around it: what is bound where,
shapes, profiles, order, and that whatever was taken is released.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.network.graph import WeightSink
from molmo_ros.network.precision import GPU_PRECISIONS
from molmo_ros.runtimes.engine_store import file_hash, write_manifest
from molmo_ros.runtimes.export import DECODER, VISION, build_graph
from molmo_ros.runtimes.memory import HostMemory
from molmo_ros.tools import build_engine
from molmo_ros.tools.recipes import Recipe

KINDS = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(uint8)": np.uint8}


class Ledger:
    """What is allocated, by kind; and the step that is to fail."""

    def __init__(self, fail_at: int = -1) -> None:
        self.alive: Counter[str] = Counter()
        self.steps, self.fail_at = 0, fail_at

    def born(self, thing: Any) -> None:
        kind = type(thing).__name__
        self.alive[kind] += 1
        weakref.finalize(thing, self.alive.subtract, [kind])

    def fails(self) -> bool:
        self.steps += 1
        return self.steps - 1 == self.fail_at


class CountedMemory(HostMemory):
    """Whose allocations are steps that may fail."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def take(self, size: int) -> int:
        if self._ledger.fails():
            raise MemoryError("none left")
        return super().take(size)


class Engine:
    """One plan."""

    def __init__(self, ledger: Ledger, plan: bytes) -> None:
        import onnxruntime

        self.ledger = ledger
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(plan, options, providers=["CPUExecutionProvider"])
        ledger.born(self)

    def create_execution_context(self, *settings: Any) -> Any:
        return None if self.ledger.fails() else Context(self)


class Context:
    """``recording``: while it is a list, work is put there instead of being done."""

    recording: list[Callable[[], None]] | None = None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        engine.ledger.born(self)

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        return not self._engine.ledger.fails()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        shapes, addresses, session = dict(self._shapes), dict(self._addresses), self._engine.session

        def work() -> None:
            inputs = {
                value.name: view(addresses[value.name], shapes.get(value.name, ()), KINDS[value.type])
                for value in session.get_inputs()
            }
            names = [value.name for value in session.get_outputs()]
            for name, array in zip(names, session.run(names, inputs), strict=True):
                ctypes.memmove(addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)

        if Context.recording is None:
            work()
        else:
            Context.recording.append(work)
        return True


def view(address: int, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), kind).reshape(shape)


def module(ledger: Ledger, name: str = "tensorrt", **more: Any) -> Any:
    """Stands for the module of that name."""

    def deserialize(plan: Any) -> Any:
        return None if ledger.fails() else Engine(ledger, bytes(plan))

    logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})
    runtime = SimpleNamespace(deserialize_cuda_engine=deserialize)
    return SimpleNamespace(
        __name__=name, __version__="10.3.0", Logger=logger, Runtime=lambda logger: runtime, **more
    )


def write_engine(checkpoint: Checkpoint, folder: Path, name: str = "tensorrt", sequence: int = 512) -> Path:
    """An engine folder for any device, in fp32, which the host can compute."""
    precision, files = GPU_PRECISIONS["fp32"], {}
    folder.mkdir(parents=True)
    for part in (VISION, DECODER):
        path = folder / f"{part}.engine"
        path.write_bytes(build_graph(checkpoint, part, WeightSink(), precision))
        files[part] = {"name": path.name, "bytes": path.stat().st_size, "sha256": file_hash(path)}
    sizes = build_engine.profiles(checkpoint, sequence)
    recipe = Recipe("any", name, 0, "fp32", sequence)
    manifest = build_engine._manifest(checkpoint, precision, recipe, "10.3.0", {}, sizes, {}, files)
    write_manifest(folder, manifest)
    return folder
