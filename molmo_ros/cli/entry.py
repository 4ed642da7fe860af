"""Read the command line, run one sub-command, print what it returns, and turn errors into one line."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from molmo_ros import __version__
from molmo_ros.cli import bench, demo, engine, evaluate, ground, info, mcp, policy, replay, sim, view
from molmo_ros.cli.output import print_error, print_result, stdout_free
from molmo_ros.errors import (
    CameraInfoError,
    CheckpointError,
    FrameError,
    MolmoRosError,
    ParameterError,
    QueryError,
    RuntimeUnavailableError,
)
from molmo_ros.packages import missing_package

COMMANDS = (demo, ground, evaluate, bench, engine, info, mcp, policy, replay, sim, view)
MISTAKES = (
    QueryError,
    FrameError,
    CameraInfoError,
    CheckpointError,
    RuntimeUnavailableError,
    ParameterError,
)
OK, FAILURE, MISTAKE, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Raises an error where argparse would print the whole usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}; see {self.prog} --help")


class _UsageError(MolmoRosError):
    """The command line itself is wrong."""

    code = "USAGE"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command with all sub-commands."""
    parser = _Parser(
        prog="molmo-ros", description="From a text query to a grasp target, without ROS or with it."
    )
    parser.add_argument("--version", action="version", version=f"molmo-ros {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        command = commands.add_parser(module.NAME, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(module=module)
        group = command.add_argument_group("output")
        group.add_argument(
            "--json",
            action="store_true",
            help="print one JSON object on standard output, all else on standard error",
        )
        group.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 on success, 1 on a failure of the thing asked for, 2 on a user's mistake."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = make_parser().parse_args(argv)
    except _UsageError as error:
        print_error(str(error), error.code, as_json="--json" in argv)
        return MISTAKE
    try:
        if getattr(args.module, "OWNS_STDOUT", False):
            args.module.run(args)
            return OK
        with stdout_free():
            result = args.module.run(args)
        print_result(result, args.module.text, as_json=args.json)
    except KeyboardInterrupt:
        print_error("interrupted", "INTERRUPTED", as_json=args.json)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if args.debug:
            traceback.print_exc()
        return _fail(error, args.json)
    return OK


def _fail(error: Exception, as_json: bool) -> int:
    """Print one line on the error and return the exit status."""
    if isinstance(error, MolmoRosError):
        print_error(str(error), error.code, as_json=as_json)
        return MISTAKE if isinstance(error, MISTAKES) else FAILURE
    if isinstance(error, ModuleNotFoundError):
        print_error(missing_package(error), "MISSING_PACKAGE", as_json=as_json)
        return FAILURE
    print_error(
        f"{type(error).__name__}: {error} (a bug: report it with the trace that --debug shows)",
        "BUG",
        as_json=as_json,
    )
    return FAILURE
