"""How every node starts and ends: parameters are checked, and Ctrl-C is clean at any moment."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from molmo_ros.errors import MolmoRosError
from molmo_ros.packages import missing_package
from molmo_ros.ros.interrupt import ending, interrupted, note_interrupts
from molmo_ros.ros.memory import limit_arenas

if TYPE_CHECKING:
    from rclpy.node import Node

N = TypeVar("N", bound="Node")
MISTAKE = 2  # exit status: a parameter is wrong, or a package is missing


def run_module(module: str) -> int:
    """The main function of a node's module, which may take a second to import. Returns the exit status."""
    try:
        return ending(int(importlib.import_module(module).main()))
    except ModuleNotFoundError as error:
        print(missing_package(error), file=sys.stderr)
        return MISTAKE


def run_node(
    name: str, make: Callable[[], N], spin: Callable[[N], None], args: Sequence[str] | None = None
) -> int:
    """Make a node and spin it until ROS shuts down. Returns the exit status: 0 also after Ctrl-C."""
    import rclpy

    note_interrupts()
    sys.unraisablehook = _tell_unless_ended
    limit_arenas()  # before the threads of the middleware
    rclpy.init(args=args)
    try:
        if not interrupted():
            _live(make, spin)
    except Exception as error:
        if not rclpy.ok() or interrupted():  # what fails now fails because ROS was shut down meanwhile
            return 0
        if isinstance(error, ModuleNotFoundError):
            error = MolmoRosError(missing_package(error))
        if not isinstance(error, MolmoRosError):
            raise
        print(f"{name}: {error}", file=sys.stderr)
        return MISTAKE
    finally:
        rclpy.try_shutdown()
    return 0


def _tell_unless_ended(unraisable: sys.UnraisableHookArgs) -> None:
    """Objects that rclpy left half made because ROS was shut down complain when they are deleted."""
    import rclpy

    if rclpy.ok() and not interrupted():
        sys.__unraisablehook__(unraisable)


def _live(make: Callable[[], N], spin: Callable[[N], None]) -> None:
    node = make()
    try:
        spin(node)
    finally:
        node.destroy_node()
