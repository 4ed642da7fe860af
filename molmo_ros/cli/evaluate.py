"""``molmo-ros eval``: measure a model against the truth of simulated scenes."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from molmo_ros.cli import options

NAME = "eval"
HELP = "measure the built-in model on new simulated scenes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument(
        "what", choices=["tiny"], help="tiny: pointing, counting and absence, on simulated scenes"
    )
    parser.add_argument(
        "--scenes", type=options.integer(1, 100_000), default=100, metavar="N", help="default 100"
    )
    parser.add_argument(
        "--seed", type=options.integer(0, 2**31 - 1), default=1, metavar="S", help="default 1"
    )
    options.add_model(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, with a progress bar on standard error."""
    from tqdm import tqdm

    from molmo_ros.tools.evaluate import evaluate_tiny

    with tqdm(total=args.scenes, unit="scene", file=sys.stderr, disable=None) as bar:

        def report(done: int, _total: int) -> None:
            bar.update(done - bar.n)

        return evaluate_tiny(args.scenes, args.seed, report, args.checkpoint, args.runtime, args.precision)


def text(result: dict[str, Any]) -> str:
    """Return one line per number."""
    return "\n".join(f"{name:<28} {_number(value)}" for name, value in result.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
