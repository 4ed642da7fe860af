"""The command ``molmo-ros``. Its sub-commands import what is heavy only when they run."""

from __future__ import annotations

from molmo_ros.cli.entry import main

__all__ = ["main"]
