"""The key-value cache on the host, for runtimes that compute there."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Float32
from molmo_ros.network.config import TextConfig

BUCKET = 64  # past positions are exposed in multiples of this, so that shapes and addresses seldom change


class SlabCache:
    """Keys and values in one array (2L,S,G,K), keys of layer i at 2i, filled from the front of S."""

    def __init__(self, text: TextConfig, dtype: Any = np.float32) -> None:
        self._slab = np.zeros((2 * text.num_layers, 4 * BUCKET, text.num_kv_heads, text.head_dim), dtype)
        self._length = 0
        self._shown: dict[int, dict[str, npt.NDArray[Any]]] = {}

    @property
    def length(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        return int(self._slab.nbytes)

    def trim(self, length: int) -> None:
        self._length = min(self._length, length)

    def append(self, new_kv: Float32) -> None:
        """new_kv (2L,T,G,K)"""
        end = self._length + new_kv.shape[1]
        if end > self._slab.shape[1]:
            capacity = -(-end // BUCKET) * BUCKET + 2 * BUCKET  # an answer's room
            grown = np.zeros_like(self._slab, shape=(len(self._slab), capacity, *self._slab.shape[2:]))
            grown[:, : self._length] = self._slab[:, : self._length]
            self._slab, self._shown = grown, {}
        self._slab[:, self._length : end] = new_kv
        self._length = end

    def past(self) -> dict[str, npt.NDArray[Any]]:
        """The decoder's inputs: a view (1,P,G,K) per layer and kind, the same objects while P is the same.

        P is the length rounded up to a bucket; the graph masks what lies beyond the length.
        """
        bound = min(-(-self._length // BUCKET) * BUCKET, self._slab.shape[1])
        if bound not in self._shown:
            kinds = ("key", "value")
            self._shown[bound] = {
                f"past_{kinds[i % 2]}_{i // 2}": self._slab[i : i + 1, :bound] for i in range(len(self._slab))
            }
        return self._shown[bound]
