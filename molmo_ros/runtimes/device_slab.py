"""The key-value cache on a device: one slab that the network reads, and swapped-out sequences beside it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np

from molmo_ros.runtimes.memory import DTYPES, Memory


@dataclass(frozen=True)
class SlabLayout:
    """The slab (planes,capacity,groups,size) of ``kind``, and the shapes of passes.

    The network attends to a multiple of ``bucket`` slots, in a short pass of ``wide_bucket``: fewer shapes,
    and so fewer graphs to capture. ``lengths``: what the tokens of a short pass are padded to. ``most_rows``:
    how many tokens a pass can be asked about. ``full``: advice for a full slab, after its size.
    """

    planes: int
    capacity: int
    groups: int
    size: int
    kind: str
    bucket: int = 64
    wide_bucket: int = 64
    lengths: tuple[int, ...] = ()
    most_rows: int = 1 << 30
    full: str = "; shorten the prompt."

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
    """The keys and values that the network sees, and which cache owns them."""

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
        """Queue the copy of new_kv (2L,count,G,K) after the rows of the cache that is shown."""
        width, pitch = count * self.layout.row_bytes, self.layout.plane_bytes
        target = self.address + cache.length * self.layout.row_bytes
        self._memory.copy_rows(target, pitch, new_kv, width, width, self.layout.planes)

    def forget(self, address: int) -> None:
        if self._open:
            self._memory.free(address)

    def close(self) -> None:
        """Sequences outside the slab are freed with the rest of the memory."""
        self._open = False

    def _copy(self, cache: DeviceCache, into_slab: bool) -> None:
        assert cache.waiting is not None
        width, pitch = cache.kept * self.layout.row_bytes, self.layout.plane_bytes
        ends = (self.address, pitch, cache.waiting, width)
        self._memory.copy_rows(
            *(ends if into_slab else (*ends[2:], *ends[:2])), min(width, pitch), self.layout.planes
        )
