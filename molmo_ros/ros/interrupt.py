"""Ctrl-C in a node: noted from the first line on, and obeyed where nothing is half done.

Imports next to nothing: what comes before ``note_interrupts`` is what Ctrl-C still kills.
"""

from __future__ import annotations

import signal

_noted: list[int] = []


def note_interrupts() -> None:
    """Note SIGINT from now on, where Python would raise KeyboardInterrupt wherever the program happens to be.

    rclpy.init adds a handler that ends its contexts, and so the spinning; this one stays beneath it, for
    before and after. On Ctrl-C a process hears the signal twice, from the terminal and from launch.
    """
    signal.signal(signal.SIGINT, lambda number, _: _noted.append(number))


def interrupted() -> bool:
    """Whether SIGINT has come since ``note_interrupts``."""
    return bool(_noted)
