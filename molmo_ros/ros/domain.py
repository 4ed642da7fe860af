"""A ROS domain that no other demo or test of this package on this machine is in."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

DOMAINS = range(1, 101)  # 0 is everybody's; beyond 101 DDS would use ports that the system gives to others


def take_domain(first: int | None = None) -> tuple[int, int]:
    """A domain, and the descriptor of the file whose lock holds it: until it is closed or the process ends.

    Tried in turn, by default from one on that depends on the process id. Raises: OSError if all are taken.
    """
    start = os.getpid() if first is None else first
    for step in range(len(DOMAINS)):
        domain = DOMAINS[(start + step) % len(DOMAINS)]
        if (held := _lock(Path(tempfile.gettempdir(), f"molmo_ros-domain-{domain}"))) is not None:
            return domain, held
    raise OSError(f"All ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are taken; end a demo or a test.")


def _lock(path: Path) -> int | None:
    """The descriptor of the locked file; None if another process, or another user, has it."""
    try:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held
