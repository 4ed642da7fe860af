"""``molmo-ros eval``: measure a model against the truth of simulated scenes."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from molmo_ros.cli import evaluate_grasp, evaluate_policy, options
from molmo_ros.errors import ParameterError

NAME = "eval"
HELP = "measure the built-in model, the grasp planner on new simulated scenes, or a policy on requests"

WHAT = {
    "tiny": "pointing, counting and absence, on simulated scenes",
    "precision": "each one against fp32",
    "grasp": "grasps executed in physics",
    "policy": "requests with the verdict that is wanted",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument("what", nargs="?", choices=WHAT, help=_choices())
    parser.add_argument(
        "--scenes", type=options.integer(1, 100_000), default=100, metavar="N", help="default 100"
    )
    parser.add_argument(
        "--seed",
        type=options.integer(0, 2**31 - 1),
        metavar="S",
        help="default 1; for grasp 10000, and those below are for tuning",
    )
    parser.add_argument(
        "--quantised",
        metavar="DIR",
        action="append",
        default=[],
        help="for precision: a folder of molmo-ros engine quantise, compared as well; may be repeated",
    )
    options.add_model(parser)
    evaluate_grasp.add_arguments(parser)
    evaluate_policy.add_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, with a progress bar on standard error."""
    if args.what is None:
        raise ParameterError(f"Say what to evaluate: {_choices()}.")
    if args.what == "grasp":
        return evaluate_grasp.run(args)
    if args.what == "policy":
        return evaluate_policy.run(args)
    from tqdm import tqdm

    from molmo_ros.tools.compare_precisions import compare_precisions
    from molmo_ros.tools.evaluate import evaluate_tiny

    seed = 1 if args.seed is None else args.seed
    with tqdm(total=args.scenes, unit="scene", file=sys.stderr, disable=None) as bar:

        def report(done: int, _total: int) -> None:
            bar.update(done - bar.n)

        if args.what == "precision":
            return compare_precisions(args.scenes, seed, report, args.checkpoint, args.quantised)

        return evaluate_tiny(args.scenes, seed, report, args.checkpoint, args.runtime, args.precision)


def _choices() -> str:
    return "; ".join(f"{name}, {text}" for name, text in WHAT.items())


def text(result: dict[str, Any]) -> str:
    """Return one line per number."""
    if "families" in result or "robustness" in result:
        return evaluate_grasp.text(result)
    if "confusion" in result:
        return evaluate_policy.text(result)
    if "precisions" in result:
        return _table(result["precisions"])
    return "\n".join(f"{name:<28} {_number(value)}" for name, value in result.items())


def _table(rows: dict[str, dict[str, float]]) -> str:
    """One line per number, one column per precision."""
    width = max(len(name) for name in rows) + 2
    lines = [f"{'':<20}" + "".join(f"{name:>{width}}" for name in rows)]
    for number in next(iter(rows.values())):
        lines.append(f"{number:<20}" + "".join(f"{_number(row[number]):>{width}}" for row in rows.values()))
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
