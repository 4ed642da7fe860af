"""Memory of a device behind a few calls, and the host's behind the same calls: so the device loop runs
anywhere.

Addresses are plain integers, since that is what engines bind. All calls on one memory are executed in order.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import AnyArray
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.runtimes.cuda import call, cudart

log = logging.getLogger(__name__)

DTYPES: dict[str, Any] = {
    "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "int64": np.int64,
    "uint8": np.uint8,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies, and what it is; ``kind`` is a key of DTYPES."""

    address: int
    shape: tuple[int, ...]
    kind: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(np.dtype(DTYPES[self.kind]).itemsize)


class Memory(Protocol):
    """Where an engine computes. ``held``: bytes that have been taken and not been freed."""

    device: str  # "cuda" or "cpu", ONNX Runtime's names
    held: int

    @property
    def stream(self) -> int:
        """The CUDA stream for all work, 0 on the host."""
        ...

    def take(self, size: int) -> int:
        """The address of this many bytes, all 0: a masked slot contributes nothing only if it is not NaN."""
        ...

    def free(self, address: int) -> None: ...

    def upload(self, array: AnyArray, address: int) -> None:
        """Queue a copy from the host; the array may change at once."""
        ...

    def download(self, tensor: Tensor) -> AnyArray:
        """Wait for all that is queued, and return a copy on the host."""
        ...

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int,
                  rows: int) -> None:  # fmt: skip
        """Queue the copy of rows of ``width`` bytes, which begin ``pitch`` bytes apart."""
        ...

    def capture(self, queue: Callable[[], None]) -> Any:
        """A graph of the work that ``queue`` queues, without running it; None where there are no graphs."""
        ...

    def launch(self, graph: Any) -> None:
        """Queue the work of a captured graph."""
        ...

    def forget(self, graph: Any) -> None:
        """Free a captured graph, or None."""
        ...

    def close(self) -> None:
        """Free what is still taken."""
        ...


class Rooms:
    """Named places in a memory, each as large as its largest use."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._taken: dict[str, tuple[int, int]] = {}  # name -> address, size

    def put(self, name: str, array: AnyArray) -> Tensor:
        """An array in the device's memory, always at the same place."""
        kind = next(k for k, dtype in DTYPES.items() if array.dtype == dtype)
        tensor = self.room(name, array.shape, kind)
        self._memory.upload(array, tensor.address)
        return tensor

    def room(self, name: str, shape: Sequence[int], kind: str) -> Tensor:
        tensor = Tensor(0, tuple(shape), kind)
        address, size = self._taken.get(name, (0, 0))
        if size < tensor.nbytes:
            if size:
                del self._taken[name]
                self._memory.free(address)
            address = self._memory.take(tensor.nbytes)
            self._taken[name] = address, tensor.nbytes
        return Tensor(address, tensor.shape, kind)


class HostMemory:
    """The host's memory as if it were a device's."""

    device = "cpu"
    stream = 0

    def __init__(self) -> None:
        self._arrays: dict[int, npt.NDArray[np.uint8]] = {}
        self.held = 0

    def take(self, size: int) -> int:
        array = np.zeros(max(size, 1), np.uint8)
        address = int(array.ctypes.data)
        self._arrays[address] = array
        self.held += array.nbytes
        return address

    def free(self, address: int) -> None:
        self.held -= self._arrays.pop(address).nbytes

    def upload(self, array: AnyArray, address: int) -> None:
        ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)

    def download(self, tensor: Tensor) -> AnyArray:
        array = np.empty(tensor.shape, DTYPES[tensor.kind])
        ctypes.memmove(array.ctypes.data, tensor.address, array.nbytes)
        return array

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int,
                  rows: int) -> None:  # fmt: skip
        for i in range(rows):
            ctypes.memmove(target + i * target_pitch, source + i * source_pitch, width)

    def capture(self, queue: Callable[[], None]) -> Any:
        return None

    def launch(self, graph: Any) -> None:
        raise NotImplementedError("nothing is captured on the host")

    def forget(self, graph: Any) -> None:
        """There is none."""

    def close(self) -> None:
        self._arrays.clear()
        self.held = 0


class DeviceMemory:
    """Memory of the first GPU, through ``cuda-python``; transfers go through pinned host memory."""

    device = "cuda"

    def __init__(self) -> None:
        """Raises: RuntimeUnavailableError."""
        self._rt = cudart()
        self._sizes: dict[int, int] = {}
        self._pinned: dict[str, tuple[int, int]] = {}  # name -> address, size
        self._stream: Any = None
        self.held = 0
        self._stream = call(self._rt.cudaStreamCreateWithFlags, self._rt.cudaStreamNonBlocking)

    @property
    def stream(self) -> int:
        return int(self._stream)

    def take(self, size: int) -> int:
        address = int(call(self._rt.cudaMalloc, max(size, 1)))
        self._sizes[address] = max(size, 1)
        self.held += max(size, 1)
        call(self._rt.cudaMemsetAsync, address, 0, max(size, 1), self._stream)
        return address

    def free(self, address: int) -> None:
        call(self._rt.cudaStreamSynchronize, self._stream)
        self.held -= self._sizes.pop(address)
        call(self._rt.cudaFree, address)

    def upload(self, array: AnyArray, address: int) -> None:
        """The next upload waits for this one, since they share the pinned memory."""
        staged = self._stage("up", array.nbytes)
        call(self._rt.cudaStreamSynchronize, self._stream)
        ctypes.memmove(staged, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        call(self._rt.cudaMemcpyAsync, address, staged, array.nbytes, kind, self._stream)

    def download(self, tensor: Tensor) -> AnyArray:
        array = np.empty(tensor.shape, DTYPES[tensor.kind])
        staged = self._stage("down", array.nbytes)
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(self._rt.cudaMemcpyAsync, staged, tensor.address, array.nbytes, kind, self._stream)
        call(self._rt.cudaStreamSynchronize, self._stream)
        ctypes.memmove(array.ctypes.data, staged, array.nbytes)
        return array

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int,
                  rows: int) -> None:  # fmt: skip
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        call(
            self._rt.cudaMemcpy2DAsync,
            target,
            target_pitch,
            source,
            source_pitch,
            width,
            rows,
            kind,
            self._stream,
        )

    def capture(self, queue: Callable[[], None]) -> Any:
        rt, mode = self._rt, self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        try:
            call(rt.cudaStreamBeginCapture, self._stream, mode)
            try:
                queue()
            finally:  # until then, the stream takes no other work
                graph = call(rt.cudaStreamEndCapture, self._stream)
            try:
                return call(rt.cudaGraphInstantiate, graph, 0)
            finally:
                call(rt.cudaGraphDestroy, graph)
        except RuntimeUnavailableError as failure:
            log.info("passes go on without a CUDA graph: %s", failure)
            return None

    def launch(self, graph: Any) -> None:
        call(self._rt.cudaGraphLaunch, graph, self._stream)

    def forget(self, graph: Any) -> None:
        if graph is not None:
            call(self._rt.cudaGraphExecDestroy, graph)

    def close(self) -> None:
        for address in list(self._sizes):
            self.free(address)
        for address, _ in self._pinned.values():
            call(self._rt.cudaFreeHost, address)
        self._pinned.clear()
        stream, self._stream = self._stream, None
        if stream is not None:
            call(self._rt.cudaStreamDestroy, stream)

    def _stage(self, name: str, size: int) -> int:
        """Pinned memory of at least this size."""
        address, known = self._pinned.get(name, (0, 0))
        if known < size:
            call(self._rt.cudaStreamSynchronize, self._stream)
            if address:
                call(self._rt.cudaFreeHost, address)
                del self._pinned[name]
            address = int(call(self._rt.cudaMallocHost, size))
            self._pinned[name] = address, size
        return address
