"""``molmo-ros eval precision``: the same questions with the weights held in each precision."""

from __future__ import annotations

import argparse
from typing import Any

from molmo_ros.cli import options
from molmo_ros.cli.evaluate_tiny import number
from molmo_ros.cli.output import scene_bar

HELP = "each precision against fp32, on simulated scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this mode."""
    options.add_scenes(parser)
    parser.add_argument("--checkpoint", metavar="C", default="tiny", help="folder, cached hub id, or tiny")
    parser.add_argument(
        "--quantised",
        type=options.path,
        metavar="DIR",
        action="append",
        default=[],
        help="a folder of molmo-ros engine quantise, compared as well; may be repeated",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, with a progress bar on standard error."""
    from molmo_ros.tools.compare_precisions import compare_precisions

    with scene_bar(args.scenes) as report:
        return compare_precisions(args.scenes, args.seed, report, args.checkpoint, args.quantised)


def text(result: dict[str, Any]) -> str:
    """Return one line per number, one column per precision."""
    rows: dict[str, dict[str, float]] = result["precisions"]
    width = max(len(name) for name in rows) + 2
    lines = [f"{'':<20}" + "".join(f"{name:>{width}}" for name in rows)]
    for quantity in next(iter(rows.values())):
        lines.append(
            f"{quantity:<20}" + "".join(f"{number(row[quantity]):>{width}}" for row in rows.values())
        )
    return "\n".join(lines)
