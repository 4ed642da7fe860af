"""Ctrl-C in a node: noted from the first line on, and obeyed where nothing is half done."""

from __future__ import annotations

import signal
import threading

_noted = threading.Event()


def note_interrupts() -> None:
    """Note SIGINT from now on, where Python would raise KeyboardInterrupt wherever the program happens to be.

    rclpy.init adds a handler that ends its contexts, and so the spinning; this one stays beneath it, for before
    and after. On Ctrl-C a process hears the signal twice, from the terminal and from launch.
    """
    signal.signal(signal.SIGINT, lambda *_: _noted.set())


def interrupted() -> bool:
    """Whether SIGINT came since ``note_interrupts``, and rclpy was not there to hear of it."""
    return _noted.is_set()
