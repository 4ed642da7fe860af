"""``molmo-ros eval``: measure a part of this package against a truth; a sub-command for each part."""

from __future__ import annotations

import argparse

from molmo_ros.cli import (
    evaluate_grasp,
    evaluate_objects,
    evaluate_points,
    evaluate_policy,
    evaluate_precision,
    evaluate_tiny,
)

NAME = "eval"
HELP = "measure a model, the grasp planner, a policy, or all on recorded frames"

MODES = {
    "tiny": evaluate_tiny,
    "precision": evaluate_precision,
    "grasp": evaluate_grasp,
    "policy": evaluate_policy,
    "objects": evaluate_objects,
    "points": evaluate_points,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a sub-command for each mode, from its module: HELP, add_arguments, run and text."""
    modes = parser.add_subparsers(dest="what", metavar=f"{{{','.join(MODES)}}}", required=True)
    for name, module in MODES.items():
        mode = modes.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(mode)
        mode.set_defaults(module=module)
        for flag in ("--json", "--debug"):
            mode.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
