"""TensorRT and TensorRT for RTX behind the device loop: one file for both modules, using their common
interface.

The decoder outputs new keys and values, which the loop appends to its slab. Each engine has a context for
each profile. This file has not run on a GPU; its calls are tested with host memory.
"""

from __future__ import annotations

import importlib
import logging
import mmap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Progress
from molmo_ros.errors import EngineError, QueryError, RuntimeUnavailableError
from molmo_ros.runtimes.cuda import device
from molmo_ros.runtimes.device import DeviceRuntime, Tensors, close_all
from molmo_ros.runtimes.device_slab import SlabLayout
from molmo_ros.runtimes.engine_store import Manifest, check_files, find_engine
from molmo_ros.runtimes.export import DECODER, VISION
from molmo_ros.runtimes.memory import DeviceMemory, Memory

log = logging.getLogger(__name__)

LENGTHS = (1, 4, 8, 16)  # of short passes; all within the profile for decoding
# The free sizes of the graphs, by which a profile is chosen: an input that has it, and the axis.
_SIZES = {
    "C": ("crops", 0), "M": ("pooling", 0), "T": ("inputs_embeds", 1), "N": ("logit_idx", 0),
    "P": ("past_key_0", 1),
}  # fmt: skip


@dataclass(frozen=True)
class TensorRt:
    """The module ``tensorrt`` or ``tensorrt_rtx``, and its loader of plans."""

    module: Any
    loader: Any

    @classmethod
    def open(cls, module: Any) -> TensorRt:
        return cls(module, module.Runtime(module.Logger(module.Logger.WARNING)))


class TrtEngine:
    """One plan. Recurring passes are captured as CUDA graphs, where that works."""

    in_place = False

    def __init__(
        self, trt: TensorRt, path: Path, profiles: list[dict[str, list[int]]], memory: Memory
    ) -> None:
        """Raises: EngineError if the plan cannot be loaded, RuntimeUnavailableError without room for it."""
        self._trt, self._path, self._profiles, self._memory = trt.module, path, profiles, memory
        self._kernel_file = path.with_suffix(".jit")
        self._kernels: Any = None
        self._contexts: list[Any] = []
        self._graphs: dict[tuple[Any, ...], Any] = {}
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            self._engine = trt.loader.deserialize_cuda_engine(plan)  # without copying gigabytes on the host
        if self._engine is None:
            version = f"{trt.module.__name__} {trt.module.__version__}"
            raise EngineError(f"{path} cannot be loaded by {version}; build it again.")
        try:
            self._settings = self._runtime_settings()
            for i in range(len(profiles)):
                self._contexts.append(self._context(i))
        except BaseException:
            self.close()
            raise

    def _runtime_settings(self) -> list[Any]:
        """For TensorRT for RTX alone: kernels that were compiled before, and its own capture of passes, since
        it may replace their kernels later.
        """
        if not hasattr(self._engine, "create_runtime_config"):
            return []
        config = self._engine.create_runtime_config()
        self._kernels = config.create_runtime_cache()
        if self._kernel_file.is_file() and not self._kernels.deserialize(self._kernel_file.read_bytes()):
            log.info(
                "%s is of another GPU, driver or version; its kernels are compiled anew", self._kernel_file
            )
        config.set_runtime_cache(self._kernels)
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return [config]

    def save_kernels(self) -> None:
        """Keep what TensorRT for RTX has compiled for this GPU beside the engine, for the next start."""
        if self._kernels is None:
            return
        content = bytes(self._kernels.serialize())
        if self._kernel_file.is_file() and self._kernel_file.read_bytes() == content:
            return
        try:
            part = self._kernel_file.with_suffix(".jit.part")
            part.write_bytes(content)
            part.replace(self._kernel_file)
        except OSError as error:
            log.info("%s is not written, the next start compiles again: %s", self._kernel_file, error)

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context(*self._settings)
        if context is None or not context.set_optimization_profile_async(profile, self._memory.stream):
            raise RuntimeUnavailableError(
                f"There is no memory on the GPU for {self._path.name}; free some, or use int4."
            )
        return context

    def run(self, inputs: Tensors, outputs: Tensors, *, again: bool) -> None:
        key = (*inputs.values(), *outputs.values())
        graph = self._graphs.get(key)
        if graph is not None:
            self._memory.launch(graph)
            return
        context = self._contexts[self._profile(inputs)]
        for name, tensor in inputs.items():
            fits = not tensor.shape or context.set_input_shape(name, tensor.shape)  # a scalar has no shape
            if not (fits and context.set_tensor_address(name, tensor.address)):
                shape = tensor.shape
                raise EngineError(f"{self._path.name} takes no {name} of shape {shape}; build it again.")
        for name, tensor in outputs.items():
            context.set_tensor_address(name, tensor.address)
        self._execute(context)
        if again and not self._settings and key not in self._graphs:  # the context has met these shapes now
            self._graphs[key] = self._memory.capture(lambda: self._execute(context))

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._memory.stream):
            raise RuntimeUnavailableError(
                f"{self._path.name} failed on the GPU; see the log, restart the node."
            )

    def _profile(self, inputs: Tensors) -> int:
        """The first profile whose ranges hold these sizes."""
        sizes = {size: inputs[name].shape[axis] for size, (name, axis) in _SIZES.items() if name in inputs}
        for i, ranges in enumerate(self._profiles):
            if all(ranges[name][0] <= size <= ranges[name][2] for name, size in sizes.items()):
                return i
        raise QueryError(
            f"{self._path.name} was not built for {sizes}; its ranges are {self._profiles}. "
            "Ask for less at once, or build an engine with a larger --sequence."
        )

    def interrupt(self) -> None:
        """A pass of an engine cannot be aborted, and is short: it runs to its end."""

    def close(self) -> None:
        for graph in self._graphs.values():
            self._memory.forget(graph)
        self._graphs.clear()
        self._contexts.clear()
        self._settings, self._kernels = [], None
        self._engine = None


def load_tensorrt(
    checkpoint: Checkpoint,
    name: str,
    precision: str = "auto",
    *,
    progress: Progress | None = None,
    memory: Memory | None = None,
) -> DeviceRuntime:
    """Both engines of a folder that ``molmo-ros engine build`` made; ``name`` is that of the module.

    ``memory``: other than that of the first GPU. Whatever was taken is freed if a step fails.
    Raises: RuntimeUnavailableError without module or GPU; EngineError without an engine that fits.
    """
    start = time.perf_counter()
    report = progress or (lambda stage, fraction: None)
    trt = _module(name)
    sm = device().sm if memory is None else 0
    folder, manifest = find_engine(checkpoint, precision, name, trt.__version__, sm)
    report("checking engine", 0.05)
    check_files(folder, manifest)
    memory = DeviceMemory() if memory is None else memory
    parts: list[TrtEngine] = []
    try:
        loaded = TensorRt.open(trt)
        for part, fraction in ((VISION, 0.1), (DECODER, 0.4)):
            report(f"loading {'text model' if part == DECODER else part}", fraction)
            path = folder / manifest.files[part]["name"]
            parts.append(TrtEngine(loaded, path, manifest.profiles[part], memory))
        runtime = DeviceRuntime(
            checkpoint, memory, parts[0], parts[1], _layout(manifest), name=name, precision=manifest.precision
        )
        if memory.device == "cuda":
            report("warming up", 0.8)
            runtime.warm_up(checkpoint)
            for engine in parts:
                engine.save_kernels()
    except BaseException:
        close_all(*parts, memory)
        raise
    report("ready", 1.0)
    took = time.perf_counter() - start
    log.info("%s %s, %s from %s, ready in %.1f s", name, trt.__version__, manifest.precision, folder, took)
    return runtime


def _layout(manifest: Manifest) -> SlabLayout:
    """The slab that the decoder's profiles are made for; the most rows are the same in both."""
    (planes, capacity, groups, size), kind = manifest.kv["layout"], str(manifest.kv["dtype"])
    bucket, decoding = int(manifest.kv["bucket"]), manifest.profiles[DECODER][0]
    return SlabLayout(
        planes, capacity, groups, size, kind, bucket, wide_bucket=4 * bucket,
        lengths=tuple(n for n in LENGTHS if n <= decoding["T"][2]),
        most_rows=decoding["N"][2],
        full="; shorten the prompt, or build an engine with a larger --sequence.",
    )  # fmt: skip


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        command = (
            "pip install tensorrt-rtx-cu13"
            if name == "tensorrt_rtx"
            else "it comes with JetPack (a venv needs --system-site-packages); else pip install tensorrt"
        )
        raise RuntimeUnavailableError(f'Runtime "{name}" is not installed ({error}): {command}') from error
