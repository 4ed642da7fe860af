"""``molmo-ros ground``: a query on an image from disk; with depth, grasp targets too."""

from __future__ import annotations

import argparse
from typing import Any

from molmo_ros.cli import options, report
from molmo_ros.errors import FrameError

NAME = "ground"
HELP = "find what a query names in an image; with depth and camera_info, also how to grasp it"
text = report.block


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument("image", metavar="IMAGE", help="colour image, PNG or JPEG")
    parser.add_argument("query", metavar="QUERY", help='what to find, such as "the red mug"')
    parser.add_argument(
        "--depth", metavar="PNG", help="16-bit PNG in millimetres, aligned to the colour image"
    )
    parser.add_argument("--camera-info", metavar="YAML", help="ROS camera_info of the colour image")
    parser.add_argument("--out", metavar="PNG", help="picture to write")
    options.add_gripper(parser)
    options.add_model(parser, remote=True)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Answer the query; read and check all files before the model is loaded."""
    from molmo_ros.prompt import clean_query

    options.check_picture_path(args.out)
    clean_query(args.query)
    if (args.depth is None) != (args.camera_info is None):
        given, missing = ("--depth", "--camera-info") if args.depth else ("--camera-info", "--depth")
        raise FrameError(f"{given} needs {missing} with it; give both for 3D, or neither for pixels alone.")
    result = _points(args) if args.depth is None else _grasps(args)
    if args.out:
        result["picture"] = args.out
    return result


def _points(args: argparse.Namespace) -> dict[str, Any]:
    from molmo_ros.datatypes import Grounding
    from molmo_ros.draw import annotate
    from molmo_ros.io import read_color, write_color

    rgb = read_color(args.image)
    answer = options.load_grounder(args).point(rgb, args.query)
    if args.out:
        write_color(args.out, annotate(rgb, answer.points, args.query))
    return report.grounding_keys(Grounding(args.query, answer, (), dict(answer.stages_ms)))


def _grasps(args: argparse.Namespace) -> dict[str, Any]:
    from molmo_ros.draw import picture
    from molmo_ros.gripper import Gripper
    from molmo_ros.io import read_frame, save_picture
    from molmo_ros.rectify import raw_grounding

    frame = read_frame(args.image, args.depth, args.camera_info)
    gripper = Gripper.load(args.gripper)
    grounding = options.load_grounder(args).grasp(frame, args.query)
    if args.out:
        save_picture(picture(frame, grounding, gripper), args.out)
    return report.grounding_keys(raw_grounding(grounding, frame.lens))
