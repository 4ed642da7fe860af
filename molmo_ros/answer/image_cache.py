"""A cache of the images that were asked about last.

The tokens before the user's words depend on the image alone. With their keys and values kept, the next
question about an image needs neither vision nor the long part of the prefill. Several cameras that are asked
in turn each find their own, as long as there is enough memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from molmo_ros.answer.molmo_point import Pointer
from molmo_ros.datatypes import Float32, Image, Index
from molmo_ros.runtimes.base import Cache

KEPT = 4  # images: a camera's last one is seldom asked about again after so many others
KEPT_BYTES = 640 << 20  # two images of Molmo2-4B in an engine that holds 2048 tokens


@dataclass(frozen=True)
class CachedImage:
    """An image, and the cache of it: its first ``length`` tokens are those before the user's words.

    ``embeds`` (length,D) of these, empty once they have gone through the network (``prefilled``); image
    features were added at ``places``. ``pointer``: for MolmoPoint only.
    """

    rgb: Image
    cache: Cache
    length: int
    embeds: Float32
    places: Index
    pointer: Pointer | None = None

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        pointer = self.pointer.nbytes if self.pointer else 0
        return self.cache.nbytes + self.rgb.nbytes + self.embeds.nbytes + pointer

    def prefilled(self) -> CachedImage:
        """The same without the embeddings, which are no longer needed after the prefill."""
        return replace(self, embeds=np.empty((0, self.embeds.shape[1]), np.float32))


class ImageCache:
    """The ``KEPT`` images asked about last, or as many of them as fit into ``limit`` bytes; one at least."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._seen: list[CachedImage] = []  # the newest is the last

    def __len__(self) -> int:
        return len(self._seen)

    def __iter__(self) -> Iterator[CachedImage]:
        return iter(self._seen)

    def take(self, rgb: Image) -> CachedImage | None:
        """What is cached for this image. It is removed until `keep`: a failure must not leave half of it."""
        for i, seen in enumerate(self._seen):
            # A few rows first: in another image, nearly always one of them differs.
            if np.array_equal(seen.rgb[::64], rgb[::64]) and np.array_equal(seen.rgb, rgb):
                return self._seen.pop(i)
        return None

    def keep(self, seen: CachedImage) -> None:
        """Keep it as the newest; the oldest ones are evicted if there is too much."""
        self._seen.append(seen)
        del self._seen[:-KEPT]
        while len(self._seen) > 1 and sum(one.nbytes for one in self._seen) > self._limit:
            self._seen.pop(0)

    def clear(self) -> None:
        self._seen.clear()
