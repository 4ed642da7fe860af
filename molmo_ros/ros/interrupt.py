"""Ctrl-C in a node. Imports next to nothing: before these lines Python answers, by dying of the signal.

rclpy.init adds a handler that ends its contexts, and so the spinning; what is set here stays beneath it, for
before and after. On Ctrl-C a process hears the signal twice, from the terminal and from launch.
"""

from __future__ import annotations

import os
import signal

_noted: list[int] = []


def leave_on_interrupt() -> None:
    """SIGINT ends the process with 0: for while modules are imported, when nothing is open or under way.

    The exception that Python raises otherwise comes out of the middle of some library's import.
    """
    signal.signal(signal.SIGINT, lambda number, _: os._exit(0))


def note_interrupts() -> None:
    """SIGINT is noted from now on, for ``interrupted``: something is open that must be closed."""
    signal.signal(signal.SIGINT, lambda number, _: _noted.append(number))


def interrupted() -> bool:
    """Whether SIGINT has come since ``note_interrupts``."""
    return bool(_noted)
