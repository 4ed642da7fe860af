"""Ctrl-C in a node, from rclpy.init on; before that, the scripts in scripts/bin end the process at once.

rclpy.init adds a handler that ends its contexts, and so the spinning; the handler set here stays beneath it,
for before and after. On Ctrl-C a process gets the signal twice, from the terminal and from launch.
"""

from __future__ import annotations

import signal

_noted: list[int] = []


def note_interrupts() -> None:
    """From now on SIGINT is only noted; Python would raise KeyboardInterrupt wherever the program is."""
    signal.signal(signal.SIGINT, lambda number, _: _noted.append(number))


def interrupted() -> bool:
    """Whether SIGINT has come since ``note_interrupts``."""
    return bool(_noted)


def ending(status: int) -> int:
    """Ignore SIGINT from now on and return the status: must be called last.

    Python's finalisation removes its own handlers, so that a second Ctrl-C would kill the process; an ignored
    signal stays ignored.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status
