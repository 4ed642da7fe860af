"""``molmo-ros eval tiny``: pointing, counting and absence, against the truth of simulated scenes."""

from __future__ import annotations

import argparse
from typing import Any

from molmo_ros.cli import options
from molmo_ros.cli.output import scene_bar

HELP = "pointing, counting and absence, on simulated scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this mode."""
    options.add_scenes(parser)
    options.add_model(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, with a progress bar on standard error."""
    from molmo_ros.tools.evaluate import evaluate_tiny

    with scene_bar(args.scenes) as report:
        return evaluate_tiny(args.scenes, args.seed, report, args.checkpoint, args.runtime, args.precision)


def text(result: dict[str, Any]) -> str:
    """Return one line per number."""
    return "\n".join(f"{name:<28} {number(value)}" for name, value in result.items())


def number(value: Any) -> str:
    """Return a number in four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
