"""``molmo-ros policy``: what a policy says about a request, and why. Advice, not a safety function."""

from __future__ import annotations

import argparse
from typing import Any

from molmo_ros.cli import judge

NAME = "policy"
HELP = "explain what a policy says about a request: allow, ask or refuse (advice, not a safety function)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="the verdict on a request, and the rule that spoke")
    check.add_argument("request", metavar="REQUEST", help='such as "hand the knife to the child"')
    check.add_argument(
        "--policy", metavar="P", default="home", help="home, lab, or a YAML file (default home)"
    )
    check.add_argument(
        "--people",
        choices=("no", "near", "hand", "child"),
        default="no",
        help="who is seen beside the target",
    )
    check.add_argument(
        "--label", action="append", default=[], metavar="L", help="what was found; may be repeated"
    )
    judge.add_arguments(check)
    for flag in ("--json", "--debug"):
        check.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Decide."""
    from molmo_ros.checkpoint.query import parse_question
    from molmo_ros.policy.policy import Circumstances, Policy

    policy = Policy.load(args.policy)
    request = parse_question(args.request).text
    seen = Circumstances(tuple(args.label), args.people)
    decision = policy.decide(request, seen)
    if (second := judge.make_judge(args)) is not None:
        decision = second.tighten(decision, request, seen, lambda: False)
    return {
        "request": request,
        "policy": policy.name,
        "verdict": decision.verdict.name.lower(),
        "rule": decision.rule,
        "text": decision.text,
        "matched": dict(decision.matched),
    }


def text(result: dict[str, Any]) -> str:
    """The verdict, and why."""
    lines = [f"{result['verdict']}: {result['text']} (rule {result['rule']} of policy {result['policy']})"]
    lines += [f"  {name:<10} {found}" for name, found in result["matched"].items()]
    return "\n".join(lines)
