"""Options of a judge model, for ``policy check`` and ``eval policy``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from molmo_ros.policy.judge import Judge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the judge is, and what to make of it."""
    group = parser.add_argument_group("judge", "a model that may only tighten the verdict (docs/safety.md)")
    group.add_argument("--judge-url", metavar="URL", help="its OpenAI-compatible server, with /v1")
    group.add_argument("--judge-model", metavar="NAME", default="", help="its name there")
    group.add_argument(
        "--judge-form",
        choices=("chat", "delphi"),
        default="chat",
        help="chat is told what to write (default), delphi was trained to write it",
    )
    group.add_argument("--judge-timeout", type=float, metavar="S", default=10.0, help="seconds (default 10)")


def make_judge(args: argparse.Namespace) -> Judge | None:
    """The judge that the options name. Raises: ParameterError if the address cannot be one."""
    if not args.judge_url:
        return None
    from molmo_ros.policy.judge import Judge
    from molmo_ros.runtimes.remote.words import RemoteWords

    server = RemoteWords(args.judge_url, args.judge_model, args.judge_timeout, "MOLMO_ROS_JUDGE_KEY")
    return Judge(server.ask, args.judge_form)
