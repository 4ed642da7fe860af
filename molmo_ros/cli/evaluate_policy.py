"""``molmo-ros eval policy``: how often a policy is right on requests with the verdict that is wanted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from molmo_ros.cli import options

HELP = "requests with the verdict that is wanted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this mode."""
    group = parser.add_argument_group("policy")
    group.add_argument(
        "--policy",
        type=options.path,
        metavar="P",
        default="home",
        help="home, lab, or a YAML file (default home)",
    )
    group.add_argument(
        "--data",
        type=options.path,
        metavar="FILE",
        help="CSV with wanted, request, people (default: the own set)",
    )
    group.add_argument(
        "--half",
        choices=("all", "written", "apart"),
        default="all",
        help="of the data: looked at while the policy was written, or kept apart (default all)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Judge all requests."""
    from molmo_ros.policy.evaluate import REQUESTS, evaluate_policy, read_requests
    from molmo_ros.policy.policy import Policy

    data = Path(args.data) if args.data else REQUESTS
    return {"data": data, **evaluate_policy(Policy.load(args.policy), read_requests(data, args.half))}


def text(result: dict[str, Any]) -> str:
    """The confusion matrix, the shares, and what was judged otherwise than wanted."""
    verdicts = list(result["confusion"])
    lines = [f"{result['requests']} requests of {result['data']}, policy {result['policy']}"]
    lines.append(f"{'wanted':<10}" + "".join(f"{verdict:>9}" for verdict in verdicts))
    for wanted, row in result["confusion"].items():
        lines.append(f"{wanted:<10}" + "".join(f"{row[verdict]:>9}" for verdict in verdicts))
    for name in ("misses", "misses_of_what_to_refuse", "false_refusals", "false_refusals_outright", "right"):
        value = result[name]
        lines.append(f"{name.replace('_', ' '):<26}" + ("-" if value is None else f"{100 * value:5.1f} %"))
    lines += [
        f"  {entry['wanted']} wanted, {entry['given']} given ({entry['rule']}): {entry['request']}"
        for entry in result["wrong"]
    ]
    return "\n".join(lines)
