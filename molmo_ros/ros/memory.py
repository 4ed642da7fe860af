"""Memory of this process: measured, bounded, and returned to the system after a model is unloaded."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

M_MMAP_THRESHOLD = -3  # of mallopt (malloc.h)
M_ARENA_MAX = -8
ARENAS = 2
LARGE_BYTES = 256 << 10  # the depth of a tracked view (320 x 240) is larger
TRIM_PERIOD_S = 60.0  # how often free memory is returned to the system


def limit_arenas() -> None:
    """Let all threads share two heaps; to be called before the first thread starts.

    By default glibc gives each new thread its own heap (arena), up to eight per core, and memory freed in one
    is not reused by another. A goal of ~/track runs in whichever thread of the executor is free, so that each
    thread in turn keeps the peak of one goal: 140 MB after fifty goals, 30 MB with two arenas.
    """
    _mallopt(M_ARENA_MAX, ARENAS)


def map_large_blocks() -> None:
    """Have each large block mapped separately, so that it is returned to the system once it is freed.

    By default glibc raises that threshold, up to 32 MB, with each such block that is freed. Images then lie
    among small blocks that stay alive, and the memory freed between them is neither reused nor returned: with
    a threshold of 4 MB, 140 MB after five minutes of tracks that come and go. The price is 4 to 8 % more CPU
    time for a query of the built-in model, for fresh pages.
    """
    _mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def _mallopt(parameter: int, value: int) -> None:
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(parameter, value)


def freeze_gc() -> None:
    """Exclude everything that exists now, mainly modules, from Python's garbage collection for good.

    Scanning 100,000 objects takes 50 ms or more, during which no other thread runs.
    """
    gc.collect()
    gc.freeze()


def trim_heap() -> None:
    """Return free memory to the system.

    Otherwise each heap stays as large as the worst mixture of requests it has ever served. Faulting its pages
    in again costs milliseconds.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident_mb() -> float:
    """Resident memory of this process in MB; NaN where /proc does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return float("nan")
    return pages * 4096 / 1e6
