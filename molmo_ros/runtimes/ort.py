"""ONNX Runtime on the CPU: the default where there is no TensorRT."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.checkpoint import Checkpoint
from molmo_ros.datatypes import Image
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.network.config import TextConfig
from molmo_ros.network.export import DECODER, VISION, build_graph, cached_export
from molmo_ros.network.graph import WeightSink
from molmo_ros.network.precision import CPU_PRECISIONS, PRECISIONS, Precision
from molmo_ros.runtimes.base import Cache, Float32, Index
from molmo_ros.runtimes.embedding import Embedding

log = logging.getLogger(__name__)

# Above this many parameters the graphs go to the disk cache: a protobuf in memory ends at 2 GB.
IN_MEMORY_PARAMETERS = 100_000_000

Progress = Callable[[str, float], None]


class SlabCache:
    """Keys and values in one array (2L,S,G,K), keys of layer i at 2i, filled from the front of S."""

    def __init__(self, text: TextConfig, capacity: int = 256, dtype: Any = np.float32) -> None:
        self._slab = np.zeros((2 * text.num_layers, capacity, text.num_kv_heads, text.head_dim), dtype)
        self._length = 0

    @property
    def length(self) -> int:
        return self._length

    def trim(self, length: int) -> None:
        self._length = min(self._length, length)

    def fork(self) -> SlabCache:
        other = object.__new__(SlabCache)
        other._slab = self._slab.copy()
        other._length = self._length
        return other

    def append(self, new_kv: Float32) -> None:
        """new_kv (2L,T,G,K)"""
        end = self._length + new_kv.shape[1]
        if end > self._slab.shape[1]:
            grown = np.zeros_like(self._slab, shape=(self._slab.shape[0], 2 * end, *self._slab.shape[2:]))
            grown[:, : self._length] = self._slab[:, : self._length]
            self._slab = grown
        self._slab[:, self._length : end] = new_kv
        self._length = end

    def past(self) -> dict[str, Float32]:
        """The decoder's inputs: a view (1,P,G,K) per layer and kind, without a copy."""
        kinds = ("key", "value")
        return {
            f"past_{kinds[i % 2]}_{i // 2}": self._slab[i : i + 1, : self._length]
            for i in range(len(self._slab))
        }


class OrtRuntime:
    """The vision and the decoder graph as two sessions, embeddings by table on the host."""

    name = "onnx"

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: str = "auto",
        *,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        held = cpu_precision(checkpoint, precision)
        start = time.perf_counter()
        report = progress or (lambda stage, fraction: None)
        self.precision = held.name
        self._dtype = held.dtype
        self._text = checkpoint.config.text
        self._embedding = Embedding(checkpoint)
        report("loading vision", 0.1)
        self._vision = _session(checkpoint, VISION, held, threads)
        report("loading text model", 0.4)
        self._decoder = _session(checkpoint, DECODER, held, threads)
        report("ready", 1.0)
        log.info("ONNX Runtime on the CPU, %s, ready in %.1f s", held.name, time.perf_counter() - start)

    def encode_image(
        self, crops: Image | Float32, pooling: Index, padding: Index | None = None
    ) -> Float32:
        inputs: dict[str, npt.NDArray[Any]] = {"crops": crops, "pooling": pooling}
        if padding is not None:
            inputs["padding"] = padding
        (embeds,) = self._vision.run(["image_embeds"], inputs)
        return np.asarray(embeds, dtype=np.float32)

    def embed(self, token_ids: list[int]) -> Float32:
        return self._embedding(token_ids)

    def new_cache(self) -> SlabCache:
        return SlabCache(self._text, dtype=self._dtype)

    def run(self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index) -> Float32:
        assert isinstance(cache, SlabCache)
        past_len = cache.length
        inputs: dict[str, npt.NDArray[Any]] = {
            "inputs_embeds": embeds[None],
            "position_ids": np.arange(past_len, past_len + len(embeds), dtype=np.int64),
            "kv_limit": kv_limit,
            "logit_idx": rows,
            "past_len": np.array(past_len, dtype=np.int64),
            **cache.past(),
        }
        logits, new_kv = self._decoder.run(["logits", "new_kv"], inputs)
        cache.append(new_kv)
        return np.asarray(logits, dtype=np.float32)

    def close(self) -> None:
        del self._vision, self._decoder, self._embedding


def cpu_precision(checkpoint: Checkpoint, name: str) -> Precision:
    """What a precision means here.

    "auto" is fp32, the reference, where that is cheap, and int8 weights above: measured on 0.2 G parameters
    they take half the time for a token and a quarter less for the prefill, at a logit cosine of 0.9998.
    "int8_dynamic" is faster still, but one scale for all tokens may fail on models with outliers.
    Raises: RuntimeUnavailableError for one that ONNX Runtime cannot run on a CPU.
    """
    if name == "auto":
        name = "fp32" if checkpoint.weights.parameters <= IN_MEMORY_PARAMETERS else "int8"
    if name in CPU_PRECISIONS:
        return CPU_PRECISIONS[name]
    names = ", ".join(CPU_PRECISIONS)
    if name in PRECISIONS:
        raise RuntimeUnavailableError(
            f'ONNX Runtime has no {name} on a CPU; choose one of {names}, or build a TensorRT engine.'
        )
    raise RuntimeUnavailableError(f'There is no precision "{name}"; choose one of {names}.')


def _session(checkpoint: Checkpoint, part: str, precision: Precision, threads: int | None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    # A robot's other processes need the cores while this one waits.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    if checkpoint.weights.parameters > IN_MEMORY_PARAMETERS:
        source: bytes | str = str(cached_export(checkpoint, precision) / f"{part}.onnx")
    else:
        source = build_graph(checkpoint, part, WeightSink(), precision)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
