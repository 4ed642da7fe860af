"""``molmo-ros mcp``: a running node as tools for an agent (Model Context Protocol)."""

from __future__ import annotations

import argparse
import os
import secrets
from typing import Any

from molmo_ros.cli import options
from molmo_ros.cli.output import say
from molmo_ros.errors import ParameterError

NAME = "mcp"
HELP = "serve a running node to an agent: ground, ask, track and look, by the Model Context Protocol"
OWNS_STDOUT = True  # the protocol runs over it; the SDK keeps other output away from it
TOKEN = "MOLMO_ROS_MCP_TOKEN"
MIN_TOKEN = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument("--node", default="/molmo", metavar="NAME", help="the node to serve (default /molmo)")
    parser.add_argument(
        "--permissions",
        type=options.path,
        metavar="YAML",
        help="which tools, cameras, how often (docs/mcp.md)",
    )
    parser.add_argument("--http", action="store_true", help="serve over HTTP, not standard input and output")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to serve at (default 127.0.0.1)"
    )
    parser.add_argument(
        "--port", type=options.integer(1, 65535), default=8765, metavar="P", help="default 8765"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Serve until the client goes away, or Ctrl-C. Raises: ParameterError."""
    from molmo_ros.ros.mcp.permissions import Permissions

    permissions = Permissions.load(args.permissions) if args.permissions else Permissions()
    http = _http(args) if args.http else None
    from molmo_ros.ros.mcp.server import serve

    if http is not None:
        say(f"serving {args.node} at http://{args.host}:{args.port}/mcp")
    serve(args.node, permissions, http)
    return {}


def _http(args: argparse.Namespace) -> tuple[str, int, str]:
    """Address and token; the user must set a token where others can connect."""
    token = os.environ.get(TOKEN, "")
    if not token and args.host in ("127.0.0.1", "localhost", "::1"):
        token = secrets.token_urlsafe(24)
        say(f"token of this run: {token} (export {TOKEN}=... for one that stays)")
    if len(token) < MIN_TOKEN:
        raise ParameterError(f"${TOKEN} has {len(token)} characters; export one of {MIN_TOKEN} or more.")
    return args.host, args.port, token


def text(result: dict[str, Any]) -> str:
    """Nothing is left to say."""
    return ""
