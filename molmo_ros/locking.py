"""One writer of a folder at a time, over all processes of this machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_writer(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock of ``folder``, which need not exist yet; yields whether another process had it before.

    The kernel frees the lock of a process that is killed. The empty lock file beside the folder stays:
    removing it would let two processes lock two files of one name. ``waiting`` is called if there is a wait.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder.parent / f".{folder.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    waited = False
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = True
            if waiting is not None:
                waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield waited
    finally:
        os.close(handle)
