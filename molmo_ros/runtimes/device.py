"""The one loop around an engine on a device: cache, shapes, addresses, and transfers in both directions.

What executes a graph is a ``DeviceEngine`` (ONNX Runtime, TensorRT), where it computes is a ``Memory``
(a GPU's, or the host's). The network reads and writes one slab (2L,S,G,K) at one address, keys of layer i at
plane 2i, so that passes can be replayed as CUDA graphs. A cache that is not in the slab waits beside it.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.checkpoint.preprocess import preprocess
from molmo_ros.datatypes import AnyArray, Float32, Image, Index
from molmo_ros.errors import QueryError
from molmo_ros.runtimes.base import Cache, Outputs
from molmo_ros.runtimes.choices import DeviceChoices
from molmo_ros.runtimes.device_slab import DeviceCache, Slab, SlabLayout
from molmo_ros.runtimes.embedding import Embedding
from molmo_ros.runtimes.memory import Memory, Rooms, Tensor

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


class DeviceEngine(Protocol):
    """One graph on a device. All addresses lie in one ``Memory``, and runs are ordered with its other calls.

    ``in_place``: the decoder writes new keys and values into the slab (``network.decoder_in_place``); else it
    outputs them as ``new_kv`` (``network.decoder``).
    """

    in_place: bool

    def run(self, inputs: Tensors, outputs: Tensors, *, again: bool) -> None:
        """Queue a run; ``again``: the same shapes at the same addresses will recur many times.

        Raises: RuntimeUnavailableError.
        """
        ...

    def interrupt(self) -> None:
        """Abort the run in another thread, if there is one and it can be aborted."""
        ...

    def close(self) -> None: ...


class DeviceRuntime:
    """A network of two engines on one memory, with the embedding table on the host."""

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
        """Takes ownership of the engines and the memory: ``close`` closes them."""
        self.name, self.precision = name, precision
        self._memory, self._vision, self._decoder = memory, vision, decoder
        self._embedding = Embedding(checkpoint)
        self._config = checkpoint.config
        self._widths = _widths(checkpoint)
        # Kept separately, since a captured pass keeps its addresses for good, and long passes grow.
        self._short, self._long = Rooms(memory), Rooms(memory)
        self._slab = Slab(memory, layout)
        self._slots = Rooms(memory).put("slots", np.arange(layout.capacity, dtype=np.int64))

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
        given = {name: self._long.put(name, array) for name, array in inputs.items()}
        results = {name: self._long.room(name, shape, "float32") for name, shape in shapes.items()}
        self._vision.run(given, results, again=False)  # its kernels are large: launching them takes no time
        return [self._memory.download(result) for result in results.values()]

    # --- text ---

    def embed(self, token_ids: list[int]) -> Float32:
        return self._embedding(token_ids)

    def new_cache(self) -> DeviceCache:
        return DeviceCache(self._slab)

    def run(
        self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index, *, logits: bool = False
    ) -> Outputs:
        """``logits`` stay on the device unless they are wanted."""
        assert isinstance(cache, DeviceCache)
        if cache.length + len(embeds) > self._slab.layout.capacity:
            raise QueryError(
                f"Image, prompt and answer take more than the {self._slab.layout.capacity} tokens that "
                f"{self.name} holds{self._slab.layout.full}"
            )
        names = [name for name in self._widths if logits or name != "logits"]
        found = self._pass(names, embeds, kv_limit, cache, rows)
        return Outputs(DeviceChoices(found), found.get("pointing"), found.get("logits"))

    def _pass(
        self, names: list[str], embeds: Float32, kv_limit: Index, cache: DeviceCache, rows: Index
    ) -> dict[str, AnyArray]:
        """The named outputs for T more tokens."""
        layout, past, wanted = self._slab.layout, cache.length, len(embeds)
        if len(rows) > layout.most_rows:
            return self._in_parts(names, embeds, kv_limit, cache, rows)
        self._slab.show(cache)
        count = next((n for n in layout.lengths if wanted <= n <= layout.capacity - past), wanted)
        short = count in layout.lengths
        rooms = self._short if short else self._long
        asked = np.arange(count) if short else rows  # all of a short pass, so that its shapes stay the same
        inputs = {
            "inputs_embeds": rooms.put("inputs_embeds", _padded(embeds, count)[None]),
            "position_ids": rooms.put("position_ids", np.arange(past, past + count, dtype=np.int64)),
            "kv_limit": rooms.put("kv_limit", _padded(kv_limit, count)),
            "logit_idx": rooms.put("logit_idx", np.asarray(asked, dtype=np.int64)),
        }
        outputs = {
            name: rooms.room(name, (count if name == "pointing" else len(asked), width), kind)
            for name, (width, kind) in self._widths.items()
        }
        self._bind_cache(inputs, outputs, past, count, rooms)
        self._decoder.run(inputs, outputs, again=short)
        if not self._decoder.in_place:
            self._slab.append(outputs["new_kv"].address, cache, count)
        found = {name: self._memory.download(outputs[name]) for name in names}
        cache.length = past + wanted
        if short:
            found = {name: a[:wanted] if name == "pointing" else a[rows] for name, a in found.items()}
        return found

    def _in_parts(
        self, names: list[str], embeds: Float32, kv_limit: Index, cache: DeviceCache, rows: Index
    ) -> dict[str, AnyArray]:
        """A pass that asks about more rows than the engine holds, as two, of which each asks about fewer."""
        most, before = self._slab.layout.most_rows, cache.length
        cut = int(rows[most])  # after the image, since only its tokens see ahead
        try:
            first = self._pass(names, embeds[:cut], kv_limit[:cut], cache, rows[:most])
            second = self._pass(names, embeds[cut:], kv_limit[cut:], cache, rows[most:] - cut)
        except BaseException:
            cache.trim(before)
            raise
        return {name: np.concatenate([first[name], second[name]]) for name in names}

    def warm_up(self, checkpoint: Checkpoint) -> None:
        """Run vision, a prefill and every short pass once: no query waits for kernels or their capture."""
        image = checkpoint.image
        inputs = preprocess(np.zeros((480, 640, 3), np.uint8), image)
        if self._config.point:
            self.encode_patches(inputs.crops, inputs.pooling)
        else:
            self.encode_image(inputs.crops, inputs.pooling, inputs.padding)
        layout, cache = self._slab.layout, self.new_cache()
        prefill = min(len(inputs.pooling), layout.capacity)
        for past in range(1, layout.capacity, layout.wide_bucket):
            for count in ([prefill] if past == 1 else []) + sorted(layout.lengths, reverse=True):
                cache.length = min(past, layout.capacity - count)
                limits = np.arange(cache.length + 1, cache.length + 1 + count)
                embeds = np.zeros((count, self._config.text.hidden_size), np.float32)
                self.run(embeds, limits, cache, np.array([count - 1]))

    def _bind_cache(self, inputs: Tensors, outputs: Tensors, past: int, count: int, rooms: Rooms) -> None:
        layout = self._slab.layout
        seen = past + count if self._decoder.in_place else past
        bucket = layout.wide_bucket if rooms is self._short else layout.bucket
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
            inputs["past_len"] = rooms.put("past_len", np.array(past, dtype=np.int64))
            rows = (layout.planes, count, layout.groups, layout.size)
            outputs["new_kv"] = rooms.room("new_kv", rows, layout.kind)

    # --- frame ---

    def interrupt(self) -> None:
        self._vision.interrupt()
        self._decoder.interrupt()

    def close(self) -> None:
        self._slab.close()
        close_all(self._vision, self._decoder, self._memory)
        del self._embedding


def close_all(*parts: Any) -> None:
    """Close those that exist, the later ones even if an earlier one fails."""
    if not parts:
        return
    try:
        if parts[0] is not None:
            parts[0].close()
    finally:
        close_all(*parts[1:])


def _widths(checkpoint: Checkpoint) -> dict[str, tuple[int, str]]:
    """Width and type of the decoder's outputs, except those of the cache."""
    config = checkpoint.config
    widths = {
        "token": (1, "int64"), "logit": (1, "float32"), "logprob": (1, "float32"),
        "known": (len(checkpoint.encoder.asked.columns), "float32"), "logits": (config.logits, "float32"),
    }  # fmt: skip
    if config.point:
        widths["pointing"] = (3 * config.point.embed_size + config.point.places, "float32")
    return widths


def _padded(array: AnyArray, count: int) -> AnyArray:
    """array (T,...) with its last row repeated up to ``count``."""
    if len(array) == count:
        return array
    return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)])
