"""``molmo-ros view``: a page with image, 3D, targets and a field for queries, of a node or of a recording."""

from __future__ import annotations

import argparse
from typing import Any

from molmo_ros.cli import options
from molmo_ros.cli.output import say
from molmo_ros.errors import ParameterError
from molmo_ros.web import HOST, PORT

NAME = "view"
HELP = "serve a page that shows a running node, a bag or a folder of frames, and takes queries"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument(
        "--node", metavar="NAME", default="/molmo", help="full name of the running node (default /molmo)"
    )
    shown = parser.add_argument_group("recordings, without ROS")
    shown.add_argument("--bag", type=options.path, metavar="BAG", help="rosbag2 folder, or a file in it")
    shown.add_argument(
        "--frames",
        type=options.path,
        metavar="DIR",
        help="folder with NAME_color.png, NAME_depth.png and camera_info.yaml, as save_dir writes it",
    )
    shown.add_argument("--image", metavar="T", default="", help="colour topic (found by type)")
    shown.add_argument("--depth", metavar="T", default="", help="depth topic")
    shown.add_argument("--camera-info", metavar="T", default="", help="camera_info topic")
    where = parser.add_argument_group("server")
    where.add_argument(
        "--host",
        default=HOST,
        help=f"address (default {HOST}); another wants a token, which is printed, or $MOLMO_ROS_WEB_TOKEN",
    )
    where.add_argument(
        "--port", type=options.integer(0, 65535), default=PORT, help=f"default {PORT}; 0: any that is free"
    )
    options.add_gripper(parser)
    options.add_model(parser, remote=True)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Serve until Ctrl-C."""
    import starlette  # noqa: F401  (missing packages are reported before a model is loaded)
    import uvicorn  # noqa: F401
    import websockets  # noqa: F401

    if args.bag and args.frames:
        raise ParameterError("Give --bag or --frames, not both.")
    if args.bag or args.frames:
        _view_recording(args)
    else:
        from molmo_ros.ros.web_node import view

        view(args.node, args.host, args.port)
    return {}


def _view_recording(args: argparse.Namespace) -> None:
    from molmo_ros.recording.reel import BagReel, FolderReel
    from molmo_ros.web.recorded import RecordedSource
    from molmo_ros.web.serve import serve

    bag = (args.bag, args.image, args.depth, args.camera_info)
    reel = BagReel(*bag) if args.bag else FolderReel(args.frames)
    serve(RecordedSource(reel, options.load_grounder(args)), args.host, args.port, say)


def text(result: dict[str, Any]) -> str:
    """Return what is printed at the end: nothing that was not said before."""
    return "closed"
