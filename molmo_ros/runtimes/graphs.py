"""What the CPU runtimes share: both graphs as sessions, the cache in numpy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import AnyArray, Float32, Image, Index, Progress
from molmo_ros.network.graph import WeightSink
from molmo_ros.network.precision import Precision
from molmo_ros.runtimes.base import Cache, Outputs
from molmo_ros.runtimes.choices import LogitChoices
from molmo_ros.runtimes.embedding import Embedding
from molmo_ros.runtimes.export import DECODER, VISION, build_graph, cached_export
from molmo_ros.runtimes.slab import SlabCache

log = logging.getLogger(__name__)

# Above this many parameters the graphs go to the disk cache: a protobuf in memory is limited to 2 GB.
IN_MEMORY_PARAMETERS = 100_000_000


class Session(Protocol):
    """One graph, ready to run."""

    def run(self, outputs: list[str], inputs: dict[str, AnyArray]) -> Sequence[AnyArray]:
        """The named outputs. ``new_kv`` need only live until the next run."""
        ...

    def interrupt(self) -> None:
        """Abort the run in another thread, if there is one: it raises at its next node."""
        ...


class GraphRuntime:
    """Two sessions, ``vision`` and ``decoder``; embeddings are read from a table on the host."""

    name: str
    precision: str

    def __init__(
        self,
        checkpoint: Checkpoint,
        open_session: Callable[[str], Session],
        dtype: Any = np.float32,
        progress: Progress | None = None,
    ) -> None:
        """``open_session``: for VISION and for DECODER; ``dtype`` of the cache."""
        start = time.perf_counter()
        report = progress or (lambda stage, fraction: None)
        self._dtype = dtype
        self._text = checkpoint.config.text
        self._asked = checkpoint.encoder.asked
        self._pointing = ["pointing"] if checkpoint.config.point else []
        self._embedding = Embedding(checkpoint)
        report("loading vision", 0.1)
        self.vision = open_session(VISION)
        report("loading text model", 0.4)
        self.decoder = open_session(DECODER)
        report("ready", 1.0)
        log.info("%s, %s, ready in %.1f s", self.name, self.precision, time.perf_counter() - start)

    def encode_image(self, crops: Image | Float32, pooling: Index, padding: Index | None = None) -> Float32:
        inputs: dict[str, AnyArray] = {"crops": crops, "pooling": pooling}
        if padding is not None:
            inputs["padding"] = padding
        (embeds,) = self.vision.run(["image_embeds"], inputs)
        return np.asarray(embeds, dtype=np.float32)

    def encode_patches(self, crops: Image | Float32, pooling: Index) -> tuple[Float32, Float32, Float32]:
        names = ["image_embeds", "patch_embeds", "patch_keys"]
        embeds, patches, keys = self.vision.run(names, {"crops": crops, "pooling": pooling})
        return embeds, patches, keys

    def embed(self, token_ids: list[int]) -> Float32:
        return self._embedding(token_ids)

    def new_cache(self) -> SlabCache:
        return SlabCache(self._text, dtype=self._dtype)

    def run(
        self, embeds: Float32, kv_limit: Index, cache: Cache, rows: Index, *, logits: bool = False
    ) -> Outputs:
        assert isinstance(cache, SlabCache)
        past_len = cache.length
        inputs: dict[str, AnyArray] = {
            "inputs_embeds": embeds[None],
            "position_ids": np.arange(past_len, past_len + len(embeds), dtype=np.int64),
            "kv_limit": kv_limit,
            "logit_idx": rows,
            "past_len": np.array(past_len, dtype=np.int64),
            **cache.past(),
        }
        names = ["logits", "new_kv", *self._pointing]
        found = dict(zip(names, self.decoder.run(names, inputs), strict=True))
        cache.append(found["new_kv"])
        rows_of = np.asarray(found["logits"], dtype=np.float32)
        return Outputs(LogitChoices(rows_of, self._asked), found.get("pointing"), rows_of)

    def interrupt(self) -> None:
        self.vision.interrupt()
        self.decoder.interrupt()

    def close(self) -> None:
        del self.vision, self.decoder, self._embedding


def graph_source(checkpoint: Checkpoint, part: str, precision: Precision) -> bytes | Path:
    """A graph as it is loaded: in memory if it is small, else a file in the user's cache."""
    if checkpoint.weights.parameters > IN_MEMORY_PARAMETERS:
        return cached_export(checkpoint, precision) / f"{part}.onnx"
    return build_graph(checkpoint, part, WeightSink(), precision)
