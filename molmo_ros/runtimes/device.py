"""The one loop around an engine on a device: cache, shapes, addresses, and what goes there and comes back.

What executes a graph is a ``DeviceEngine`` (ONNX Runtime, TensorRT), where it computes is a ``Memory``
(a GPU's, or the host's). The network reads and writes one slab (2L,S,G,K) at one address, keys of layer i at
plane 2i, so that passes can be replayed as CUDA graphs. A cache that is not in the slab waits beside it.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import AnyArray, Float32, Image, Index
from molmo_ros.errors import QueryError
from molmo_ros.runtimes.base import Cache
from molmo_ros.runtimes.embedding import Embedding
from molmo_ros.runtimes.memory import DTYPES, Memory, Tensor

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


class DeviceEngine(Protocol):
    """One graph on a device. All addresses lie in one ``Memory``, whose order its runs keep.

    ``in_place``: the decoder writes new keys and values into the slab (``network.decoder_in_place``); else it
    puts them out as ``new_kv`` (``network.decoder``).
    """

    in_place: bool

    def run(self, inputs: Tensors, outputs: Tensors, *, again: bool) -> None:
        """Queue a run; ``again``: the same shapes at the same addresses will come many times.

        Raises: RuntimeUnavailableError.
        """
        ...

    def interrupt(self) -> None:
        """End the run in another thread, if one does and it can be ended."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class SlabLayout:
    """The slab (planes,capacity,groups,size) of ``kind``, and the shapes of passes.

    The network looks at a multiple of ``bucket`` slots, in a short pass of ``wide_bucket``: fewer shapes, and
    so fewer graphs to capture. ``lengths``: what the tokens of a short pass are padded to.
    """

    planes: int
    capacity: int
    groups: int
    size: int
    kind: str
    bucket: int = 64
    wide_bucket: int = 64
    lengths: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        return int(self.groups * self.size * np.dtype(DTYPES[self.kind]).itemsize)

    @property
    def plane_bytes(self) -> int:
        return self.capacity * self.row_bytes


class DeviceCache:
    """Keys and values of one sequence, in the slab or beside it."""

    def __init__(self, slab: Slab) -> None:
        self._slab = slab
        self.length = 0
        self.waiting: int | None = None  # the address of its rows (2L,length,G,K) while it is not in the slab
        self.kept = 0  # rows there

    @property
    def nbytes(self) -> int:
        """What it takes, or would take beside the slab."""
        layout = self._slab.layout
        return max(self.kept, self.length) * layout.planes * layout.row_bytes

    def trim(self, length: int) -> None:
        self.length = min(self.length, length)

    def __del__(self) -> None:
        if self.waiting is not None:
            self._slab.forget(self.waiting)


class Slab:
    """The keys and values that the network sees, and whose they are."""

    def __init__(self, memory: Memory, layout: SlabLayout) -> None:
        self._memory, self.layout = memory, layout
        self._owner: weakref.ref[DeviceCache] | None = None
        self.address = memory.take(layout.planes * layout.plane_bytes)
        self._open = True

    def plane(self, i: int) -> int:
        """Address of keys (even) or values (odd) of layer i // 2."""
        return self.address + i * self.layout.plane_bytes

    def show(self, cache: DeviceCache) -> None:
        """Put the rows of ``cache`` into the slab, if they are not there; those of another wait beside it."""
        owner = None if self._owner is None else self._owner()
        if owner is cache:
            return
        if owner is not None and owner.length:
            owner.kept = owner.length
            owner.waiting = self._memory.take(owner.kept * self.layout.planes * self.layout.row_bytes)
            self._copy(owner, into_slab=False)
        self._owner = weakref.ref(cache)
        if cache.waiting is not None:
            self._copy(cache, into_slab=True)
            self.forget(cache.waiting)
            cache.waiting, cache.kept = None, 0

    def append(self, new_kv: int, cache: DeviceCache, count: int) -> None:
        """Queue the copy of new_kv (2L,count,G,K) behind the rows of the cache that is shown."""
        width, pitch = count * self.layout.row_bytes, self.layout.plane_bytes
        target = self.address + cache.length * self.layout.row_bytes
        self._memory.copy_rows(target, pitch, new_kv, width, width, self.layout.planes)

    def forget(self, address: int) -> None:
        if self._open:
            self._memory.free(address)

    def close(self) -> None:
        """What still waits is freed with all the memory."""
        self._open = False

    def _copy(self, cache: DeviceCache, into_slab: bool) -> None:
        assert cache.waiting is not None
        width, pitch = cache.kept * self.layout.row_bytes, self.layout.plane_bytes
        ends = (self.address, pitch, cache.waiting, width)
        self._memory.copy_rows(
            *(ends if into_slab else (*ends[2:], *ends[:2])), min(width, pitch), self.layout.planes
        )


class DeviceRuntime:
    """A network of two engines on one memory, embeddings by table on the host."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        memory: Memory,
        vision: DeviceEngine,
        decoder: DeviceEngine,
        layout: SlabLayout,
        *,
        name: str,
        precision: str,
    ) -> None:
        """Takes the engines and the memory over: ``close`` closes them."""
        self.name, self.precision = name, precision
        self._memory, self._vision, self._decoder = memory, vision, decoder
        self._embedding = Embedding(checkpoint)
        self._config = checkpoint.config
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> address, size
        self._slab = Slab(memory, layout)
        self._slots = self._put("slots", np.arange(layout.capacity, dtype=np.int64))

    # --- vision ---

    def encode_image(self, crops: Image | Float32, pooling: Index, padding: Index | None = None) -> Float32:
        inputs: dict[str, AnyArray] = {"crops": crops, "pooling": pooling}
        if padding is not None:
            inputs["padding"] = padding
        (embeds,) = self._encode(inputs, {"image_embeds": (len(pooling), self._config.text.hidden_size)})
        return embeds

    def encode_patches(self, crops: Image | Float32, pooling: Index) -> tuple[Float32, Float32, Float32]:
        assert self._config.point is not None
        width = self._config.text.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "image_embeds": (len(pooling), width),
            "patch_embeds": (*pooling.shape, width),
            "patch_keys": (*pooling.shape, self._config.point.embed_size),
        }
        embeds, patches, keys = self._encode({"crops": crops, "pooling": pooling}, shapes)
        return embeds, patches, keys

    def _encode(self, inputs: dict[str, AnyArray], shapes: dict[str, tuple[int, ...]]) -> list[Float32]:
        given = {name: self._put(name, array) for name, array in inputs.items()}
        results = {name: self._room(name, shape, "float32") for name, shape in shapes.items()}
        self._vision.run(given, results, again=False)  # its kernels are large: starting them takes no time
        return [self._memory.download(result) for result in results.values()]

    # --- text ---

    def embed(self, token_ids: list[int]) -> Float32:
        return self._embedding(token_ids)

    def new_cache(self) -> DeviceCache:
        return DeviceCache(self._slab)

    def run(self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index) -> Float32:
        logits, _ = self._run(embeds, kv_limit, cache, rows)
        return logits

    def run_pointing(
        self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index
    ) -> tuple[Float32, Float32]:
        logits, pointing = self._run(embeds, kv_limit, cache, rows)
        assert pointing is not None
        return logits, pointing

    def _run(
        self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index
    ) -> tuple[Float32, Float32 | None]:
        """Logits (N,vocabulary) and, of MolmoPoint, what it points by, (T,3E+places)."""
        assert isinstance(cache, DeviceCache)
        layout, past, wanted = self._slab.layout, cache.length, len(embeds)
        if past + wanted > layout.capacity:
            raise QueryError(
                f"Image, prompt and answer take more than the {layout.capacity} tokens that {self.name} "
                "holds; shorten the prompt."
            )
        self._slab.show(cache)
        count = next((n for n in layout.lengths if wanted <= n <= layout.capacity - past), wanted)
        short = count in layout.lengths
        asked = np.arange(count) if short else rows  # of a short pass all, so that its shapes stay the same
        inputs = {
            "inputs_embeds": self._put("inputs_embeds", _padded(embeds, count)[None]),
            "position_ids": self._put("position_ids", np.arange(past, past + count, dtype=np.int64)),
            "kv_limit": self._put("kv_limit", _padded(kv_limit, count)),
            "logit_idx": self._put("logit_idx", np.asarray(asked, dtype=np.int64)),
        }
        outputs = {"logits": self._room("logits", (len(asked), self._config.logits), "float32")}
        if point := self._config.point:
            width = 3 * point.embed_size + point.places
            outputs["pointing"] = self._room("pointing", (count, width), "float32")
        self._bind_cache(inputs, outputs, past, count, short)
        self._decoder.run(inputs, outputs, again=short)
        if not self._decoder.in_place:
            self._slab.append(outputs["new_kv"].address, cache, count)
        logits = self._download_rows(outputs["logits"], rows if short else None)
        pointing = self._memory.download(outputs["pointing"])[:wanted] if point else None
        cache.length = past + wanted
        return logits, pointing

    def _bind_cache(self, inputs: Tensors, outputs: Tensors, past: int, count: int, short: bool) -> None:
        layout = self._slab.layout
        seen = past + count if self._decoder.in_place else past
        bucket = layout.wide_bucket if short else layout.bucket
        bound = min(max(-(-seen // bucket), 1) * bucket, layout.capacity)
        shape = (bound, layout.groups, layout.size)
        for i in range(layout.planes):
            name = f"{('key', 'value')[i % 2]}_{i // 2}"
            if self._decoder.in_place:
                inputs[f"past_{name}"] = Tensor(self._slab.plane(i), shape, layout.kind)
                outputs[f"present_{name}"] = inputs[f"past_{name}"]
            else:
                inputs[f"past_{name}"] = Tensor(self._slab.plane(i), (1, *shape), layout.kind)
        if self._decoder.in_place:
            inputs["slots"] = Tensor(self._slots.address, (bound,), "int64")
        else:
            inputs["past_len"] = self._put("past_len", np.array(past, dtype=np.int64))
            rows = (layout.planes, count, layout.groups, layout.size)
            outputs["new_kv"] = self._room("new_kv", rows, layout.kind)

    def _download_rows(self, logits: Tensor, rows: Index | None) -> Float32:
        """All of logits, or the ``rows`` of it, which follow each other or else cost those between them."""
        if rows is None:
            return np.asarray(self._memory.download(logits))
        first, width = int(rows.min()), logits.shape[1]
        shape = (int(rows.max()) - first + 1, width)
        part = self._memory.download(Tensor(logits.address + 4 * first * width, shape, "float32"))
        return part if len(part) == len(rows) else np.asarray(part[rows - first])

    # --- frame ---

    def interrupt(self) -> None:
        self._vision.interrupt()
        self._decoder.interrupt()

    def close(self) -> None:
        self._slab.close()
        close_all(self._vision, self._decoder, self._memory)
        del self._embedding

    def _put(self, name: str, array: AnyArray) -> Tensor:
        """An array in the device's memory, always at the same place."""
        kind = next(k for k, dtype in DTYPES.items() if array.dtype == dtype)
        tensor = self._room(name, array.shape, kind)
        self._memory.upload(array, tensor.address)
        return tensor

    def _room(self, name: str, shape: Sequence[int], kind: str) -> Tensor:
        tensor = Tensor(0, tuple(shape), kind)
        address, size = self._buffers.get(name, (0, 0))
        if size < tensor.nbytes:
            if size:
                self._memory.free(address)
            address = self._memory.take(tensor.nbytes)
            self._buffers[name] = address, tensor.nbytes
        return Tensor(address, tensor.shape, kind)


def close_all(*parts: Any) -> None:
    """Close what there is of them, the last even if one before fails."""
    if not parts:
        return
    try:
        if parts[0] is not None:
            parts[0].close()
    finally:
        close_all(*parts[1:])


def _padded(array: AnyArray, count: int) -> AnyArray:
    """array (T,...) with its last row repeated up to ``count``."""
    if len(array) == count:
        return array
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)])
