"""A ROS domain that no other demo, test or tool of this package on this machine is in."""

from __future__ import annotations

import os
import socket

DOMAINS = range(1, 101)  # 0 is everybody's; beyond 101 DDS would use ports that the system gives to others


def take_domain(first: int | None = None) -> tuple[int, socket.socket]:
    """A domain, and the socket that holds it: taken until the socket is closed or the process ends.

    Tried in turn, by default from one on that depends on the process id. An abstract address (Linux) can be
    bound once at a time, and leaves nothing behind. Raises: OSError if all domains are taken.
    """
    start = os.getpid() if first is None else first
    for step in range(len(DOMAINS)):
        domain = DOMAINS[(start + step) % len(DOMAINS)]
        held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            held.bind(f"\0molmo_ros/domain/{domain}")
        except OSError:
            held.close()
            continue
        return domain, held
    raise OSError(f"All ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are taken; end a demo or a test.")
