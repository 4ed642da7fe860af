"""TensorRT and TensorRT for RTX: one runtime for both modules, device memory by cuda-python.

The cache is one slab (2L,S,G,K) on the device. Each layer's past is its plane of the slab, bound by address
with a length rounded up to a bucket; slots behind the filled ones are masked by ``past_len``. New rows are
appended by one two-dimensional copy on the device, so nothing of the cache ever moves.
"""

from __future__ import annotations

import logging
import math
import mmap
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Float32, Image, Index, Progress
from molmo_ros.errors import EngineError, QueryError, RuntimeUnavailableError
from molmo_ros.runtimes.base import Cache
from molmo_ros.runtimes.cuda import Buffer, call, cudart, device
from molmo_ros.runtimes.embedding import Embedding
from molmo_ros.runtimes.engine_store import Manifest, check_files, find_engine
from molmo_ros.runtimes.export import DECODER, VISION

log = logging.getLogger(__name__)

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class DeviceCache:
    """Keys and values on the device; see the module."""

    def __init__(self, kv: dict[str, Any]) -> None:
        self.planes, self.capacity, groups, size = kv["layout"]
        self.row_bytes = groups * size * _ITEM_BYTES[kv["dtype"]]
        self._length = 0
        # Zeros, since a masked slot counts nothing only as long as it is no NaN.
        self.slab = Buffer(self.planes * self.plane_bytes, zero=True)

    @property
    def plane_bytes(self) -> int:
        return int(self.capacity * self.row_bytes)

    @property
    def length(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        return self.slab.size

    def trim(self, length: int) -> None:
        self._length = min(self._length, length)

    def plane(self, i: int) -> int:
        """Address of keys (even) or values (odd) of layer i // 2."""
        return self.slab.address + i * self.plane_bytes

    def append(self, new_kv: Buffer, count: int, stream: Any) -> None:
        """Queue the copy of new_kv (2L,count,G,K) behind the filled rows."""
        rt = cudart()
        width, kind = count * self.row_bytes, rt.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        target = self.slab.address + self._length * self.row_bytes
        call(
            rt.cudaMemcpy2DAsync,
            target,
            self.plane_bytes,
            new_kv.address,
            width,
            width,
            self.planes,
            kind,
            stream,
        )
        self._length += count


class TrtRuntime:
    """Both engines of a folder that ``molmo-ros engine build`` made, and embeddings by table on the host."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        module: str,
        precision: str = "auto",
        *,
        progress: Progress | None = None,
    ) -> None:
        """Raises: RuntimeUnavailableError without module or GPU; EngineError without an engine that fits."""
        start = time.perf_counter()
        report = progress or (lambda stage, fraction: None)
        self.name = module
        trt = _module(module)
        gpu = device()
        folder, self._manifest = find_engine(checkpoint, precision, module, trt.__version__, gpu.sm)
        self.precision = self._manifest.precision
        report("checking engine", 0.05)
        check_files(folder, self._manifest)
        self._embedding = Embedding(checkpoint)
        self._stream = call(cudart().cudaStreamCreate)
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._loader = trt.Runtime(self._logger)
        report("loading vision", 0.1)
        self._vision = _Part(trt, self._loader, folder, self._manifest, VISION, self._stream)
        report("loading text model", 0.4)
        self._decoder = _Part(trt, self._loader, folder, self._manifest, DECODER, self._stream)
        self._width = checkpoint.config.text.hidden_size
        self._vocabulary = checkpoint.config.logits
        self._point = checkpoint.config.point
        report("ready", 1.0)
        log.info(
            "%s %s on %s (SM%d), %s from %s, ready in %.1f s", module, trt.__version__, gpu.name, gpu.sm,
            self.precision, folder, time.perf_counter() - start,
        )  # fmt: skip

    def encode_image(self, crops: Image | Float32, pooling: Index, padding: Index | None = None) -> Float32:
        inputs: dict[str, npt.NDArray[Any]] = {"crops": crops, "pooling": pooling}
        if padding is not None:
            inputs["padding"] = padding
        (embeds,) = self._encode(inputs, {"image_embeds": (len(pooling), self._width)})
        return embeds

    def encode_patches(self, crops: Image | Float32, pooling: Index) -> tuple[Float32, Float32, Float32]:
        assert self._point is not None
        shapes: dict[str, tuple[int, ...]] = {
            "image_embeds": (len(pooling), self._width),
            "patch_embeds": (*pooling.shape, self._width),
            "patch_keys": (*pooling.shape, self._point.embed_size),
        }
        embeds, patches, keys = self._encode({"crops": crops, "pooling": pooling}, shapes)
        return embeds, patches, keys

    def _encode(
        self, inputs: dict[str, npt.NDArray[Any]], shapes: dict[str, tuple[int, ...]]
    ) -> list[Float32]:
        """All outputs of the vision engine, by their shapes."""
        sizes = {"C": len(inputs["crops"]), "M": len(inputs["pooling"])}
        found = self._vision.run(inputs, {name: math.prod(s) * 4 for name, s in shapes.items()}, sizes)
        return [
            buffer.download(shape, self._stream) for buffer, shape in zip(found, shapes.values(), strict=True)
        ]

    def embed(self, token_ids: list[int]) -> Float32:
        return self._embedding(token_ids)

    def new_cache(self) -> DeviceCache:
        return DeviceCache(self._manifest.kv)

    def run(self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index) -> Float32:
        shapes: dict[str, tuple[int, ...]] = {"logits": (len(rows), self._vocabulary)}
        (logits,) = self._run(shapes, embeds, kv_limit, cache, rows)
        return logits

    def run_pointing(
        self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index
    ) -> tuple[Float32, Float32]:
        assert self._point is not None
        width = 3 * self._point.embed_size + self._point.places
        shapes: dict[str, tuple[int, ...]] = {
            "logits": (len(rows), self._vocabulary), "pointing": (len(embeds), width)
        }  # fmt: skip
        logits, pointing = self._run(shapes, embeds, kv_limit, cache, rows)
        return logits, pointing

    def _run(
        self,
        shapes: dict[str, tuple[int, ...]],
        embeds: Float32,
        kv_limit: Index,
        cache: Cache,
        rows: Index,
    ) -> list[Float32]:
        """All outputs of the decoder engine but new_kv, which goes to the cache, by their shapes."""
        assert isinstance(cache, DeviceCache)
        past, count, bucket = cache.length, len(embeds), int(self._manifest.kv["bucket"])
        if past + count > cache.capacity:
            raise QueryError(
                f"Image, prompt and answer take more than the {cache.capacity} tokens that the engine holds; "
                "shorten the prompt, or build an engine with a larger --sequence."
            )
        bound = min(max(-(-past // bucket), 1) * bucket, cache.capacity)
        inputs: dict[str, npt.NDArray[Any]] = {
            "inputs_embeds": embeds[None],
            "position_ids": np.arange(past, past + count, dtype=np.int64),
            "kv_limit": kv_limit,
            "logit_idx": rows,
            "past_len": np.array(past, dtype=np.int64),
        }
        _, _, groups, size = self._manifest.kv["layout"]
        planes: dict[str, tuple[int, tuple[int, ...]]] = {
            f"past_{('key', 'value')[i % 2]}_{i // 2}": (cache.plane(i), (1, bound, groups, size))
            for i in range(cache.planes)
        }
        results = {name: math.prod(shape) * 4 for name, shape in shapes.items()}
        results["new_kv"] = cache.planes * count * cache.row_bytes
        sizes = {"T": count, "N": len(rows), "P": bound}
        *found, new_kv = self._decoder.run(inputs, results, sizes, planes)
        cache.append(new_kv, count, self._stream)
        return [
            buffer.download(shape, self._stream) for buffer, shape in zip(found, shapes.values(), strict=True)
        ]

    def interrupt(self) -> None:
        """An engine's pass cannot be ended, and is short: it ends by itself."""

    def close(self) -> None:
        self._vision.close()
        self._decoder.close()
        call(cudart().cudaStreamDestroy, self._stream)
        del self._loader, self._embedding


class _Part:
    """One engine: a context for each profile, and buffers that grow to the largest use."""

    def __init__(
        self, trt: Any, loader: Any, folder: Path, manifest: Manifest, part: str, stream: Any
    ) -> None:
        path = folder / manifest.files[part]["name"]
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            self._engine = loader.deserialize_cuda_engine(plan)  # without a copy of gigabytes on the host
        if self._engine is None:
            raise EngineError(f"{path} cannot be loaded by {trt.__name__} {trt.__version__}; build it again.")
        self._profiles = manifest.profiles[part]
        self._part, self._stream = part, stream
        self._contexts = []
        for i in range(len(self._profiles)):
            context = self._engine.create_execution_context()
            if context is None or not context.set_optimization_profile_async(i, int(stream)):
                raise RuntimeUnavailableError(
                    f"No memory on the GPU for the {part} engine; free some, or use int4."
                )
            self._contexts.append(context)
        self._buffers: dict[str, Buffer] = {}

    def run(
        self,
        inputs: dict[str, npt.NDArray[Any]],
        results: dict[str, int],
        sizes: dict[str, int],
        bound: dict[str, tuple[int, tuple[int, ...]]] | None = None,
    ) -> list[Buffer]:
        """Queue one pass; ``results`` names outputs and their bytes, ``bound`` inputs that lie there."""
        context = self._contexts[self._profile(sizes)]
        # Kept until the next pass, since the copies from them are only queued.
        self._sources = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in self._sources.items():
            buffer = self._buffer(name, array.nbytes)
            buffer.upload(array, self._stream)
            self._bind(context, name, buffer.address, array.shape)
        for name, (address, shape) in (bound or {}).items():
            self._bind(context, name, address, shape)
        outputs = [self._buffer(name, size) for name, size in results.items()]
        for name, buffer in zip(results, outputs, strict=True):
            context.set_tensor_address(name, buffer.address)
        if not context.execute_async_v3(int(self._stream)):
            raise RuntimeUnavailableError(
                f"The {self._part} engine failed on the GPU; see the log, restart the node."
            )
        return outputs

    def close(self) -> None:
        for buffer in self._buffers.values():
            buffer.close()
        self._contexts.clear()
        del self._engine

    def _profile(self, sizes: dict[str, int]) -> int:
        """The first profile whose ranges hold these sizes."""
        for i, ranges in enumerate(self._profiles):
            if all(ranges[name][0] <= size <= ranges[name][2] for name, size in sizes.items()):
                return i
        raise QueryError(
            f"The {self._part} engine was not built for {sizes}; its ranges are {self._profiles}. "
            "Ask for less at once, or build an engine with a larger --sequence."
        )

    def _buffer(self, name: str, size: int) -> Buffer:
        known = self._buffers.get(name)
        if known is not None and known.size >= size:
            return known
        if known is not None:
            call(cudart().cudaStreamSynchronize, self._stream)
            known.close()
        self._buffers[name] = Buffer(size)
        return self._buffers[name]

    def _bind(self, context: Any, name: str, address: int, shape: tuple[int, ...]) -> None:
        fits = not shape or context.set_input_shape(name, shape)  # a single number has no shape to set
        if not (fits and context.set_tensor_address(name, address)):
            raise EngineError(f"The {self._part} engine takes no {name} of shape {shape}; build it again.")


def _module(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        command = (
            "pip install tensorrt-rtx-cu13"
            if name == "tensorrt_rtx"
            else "it comes with JetPack (a venv needs --system-site-packages); else pip install tensorrt"
        )
        raise RuntimeUnavailableError(f'Runtime "{name}" is not installed ({error}): {command}') from error
