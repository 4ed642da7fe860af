"""``molmo-ros eval policy``: how often a policy is right on requests with the verdict that is wanted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molmo_ros.cli import judge, options

if TYPE_CHECKING:
    from molmo_ros.policy.evaluate import Request

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
        help="CSV with wanted, request, people (default: the own set), or JSON lines of pictures with boxes "
        "that may not be acted on (docs/safety.md)",
    )
    group.add_argument(
        "--half",
        choices=("all", "written", "apart"),
        default="all",
        help="of the data: looked at while the policy was written, or kept apart (default all)",
    )
    group.add_argument(
        "--point", action="store_true", help="JSON lines: judge what the model points at, not every box"
    )
    judge.add_arguments(parser)
    options.add_model(parser, remote=True)
    parser.set_defaults(gripper="franka_hand")  # which nothing here uses


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Judge all requests."""
    from molmo_ros.policy.evaluate import REQUESTS, evaluate_policy, read_requests
    from molmo_ros.policy.policy import Policy

    data = Path(args.data) if args.data else REQUESTS
    policy, beside = Policy.load(args.policy), 0
    if data.suffix == ".jsonl":
        requests, beside = _scenes(data, args)
    else:
        requests = read_requests(data, args.half)
    result = evaluate_policy(policy, requests, judge.make_judge(args))
    return {"data": data, "pointed_beside": beside, **result}


def _scenes(data: Path, args: argparse.Namespace) -> tuple[list[Request], int]:
    """The requests of pictures with boxes, and in how many the model points at none of them."""
    from molmo_ros import io
    from molmo_ros.errors import AnswerError
    from molmo_ros.policy.constraints import point_at, read_scenes

    scenes = read_scenes(data)
    if not args.point:
        return [request for scene in scenes for request in scene.requests()], 0
    grounder = options.load_grounder(args)

    def point(image: Path, instruction: str) -> list[tuple[float, float]]:
        try:
            return [(p.x, p.y) for p in grounder.point(io.read_color(image), instruction).points]
        except AnswerError:
            return []

    return point_at(scenes, point)


def text(result: dict[str, Any]) -> str:
    """The confusion matrix, the shares, and what was not judged as wanted."""
    verdicts = list(result["confusion"])
    lines = [f"{result['requests']} requests of {result['data']}, policy {result['policy']}"]
    lines.append(f"{'wanted':<10}" + "".join(f"{verdict:>9}" for verdict in verdicts))
    for wanted, row in result["confusion"].items():
        lines.append(f"{wanted:<10}" + "".join(f"{row[verdict]:>9}" for verdict in verdicts))
    for name in ("misses", "misses_of_what_to_refuse", "false_refusals", "false_refusals_outright", "right"):
        value = result[name]
        lines.append(f"{name.replace('_', ' '):<26}" + ("-" if value is None else f"{100 * value:5.1f} %"))
    if result["pointed_beside"]:
        lines.append(f"pointed at none of the boxes: {result['pointed_beside']} scenes")
    if result["silent"]:
        lines.append(f"no opinion of the judge: {result['silent']} requests")
    lines += [
        f"  {entry['wanted']} wanted, {entry['given']} given ({entry['rule']}): {entry['request']}"
        for entry in result["wrong"]
    ]
    return "\n".join(lines)
