"""Token embeddings from a table on the host: no runtime needs its device for them."""

from __future__ import annotations

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Float32
from molmo_ros.network.weights import TEXT

# Tables up to this size are held in memory; larger ones are read row by row.
_TABLE_IN_MEMORY = 16_000_000


class Embedding:
    """Rows of the base table and of the extra one after it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._weights = checkpoint.weights
        text = checkpoint.config.text
        self._vocab_size = text.vocab_size
        names = [f"{TEXT}wte.embedding"] + [f"{TEXT}wte.new_embedding"] * bool(text.extra_vocab_size)
        self._table: Float32 | None = None
        if (text.vocab_size + text.extra_vocab_size) * text.hidden_size <= _TABLE_IN_MEMORY:
            self._table = np.concatenate([self._weights.read(name) for name in names])

    def __call__(self, token_ids: list[int]) -> Float32:
        if self._table is not None:
            return self._table[token_ids]
        ids, inverse = np.unique(np.array(token_ids, dtype=np.int64), return_inverse=True)
        base, extra = ids[ids < self._vocab_size], ids[ids >= self._vocab_size] - self._vocab_size
        parts = [
            self._weights.rows(f"{TEXT}wte.{name}", rows)
            for name, rows in (("embedding", base), ("new_embedding", extra))
            if len(rows)
        ]
        return np.asarray(np.concatenate(parts)[inverse], dtype=np.float32)
