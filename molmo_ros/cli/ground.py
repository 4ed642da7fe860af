"""``molmo-ros ground``: a query on an image from disk; with depth, grasp targets too."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from molmo_ros.cli import options, report
from molmo_ros.errors import FrameError, TransformError

if TYPE_CHECKING:
    from molmo_ros.checkpoint.query import Query
    from molmo_ros.datatypes import Array

NAME = "ground"
HELP = "find what a query names in an image; with depth and camera_info, also how to grasp it"
text = report.block


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument("image", type=options.path, metavar="IMAGE", help="colour image, PNG or JPEG")
    parser.add_argument("query", metavar="QUERY", help='what to find, such as "the red mug"')
    parser.add_argument(
        "--depth",
        type=options.path,
        metavar="PNG",
        help="16-bit PNG in millimetres, aligned to the colour image",
    )
    parser.add_argument(
        "--camera-info", type=options.path, metavar="YAML", help="ROS camera_info of the colour image"
    )
    parser.add_argument(
        "--depth-camera-info",
        type=options.path,
        metavar="YAML",
        help="that of the depth image, if it is not aligned to colour",
    )
    parser.add_argument(
        "--depth-pose",
        nargs=7,
        type=float,
        metavar=("X", "Y", "Z", "QX", "QY", "QZ", "QW"),
        help="m and quaternion of the depth camera in the colour camera, as tf2_echo COLOR DEPTH prints them",
    )
    parser.add_argument(
        "--out",
        type=options.path,
        metavar="FILE",
        help="picture to write; with depth also a recording for Foxglove (.mcap) or Rerun (.rrd)",
    )
    options.add_gripper(parser)
    options.add_model(parser, remote=True)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Answer the query; read and check all files before the model is loaded."""
    from molmo_ros.checkpoint.query import parse_query

    (options.check_picture_path if args.depth is None else options.check_answer_path)(args.out)
    query = parse_query(args.query)
    if (args.depth is None) != (args.camera_info is None):
        given, missing = ("--depth", "--camera-info") if args.depth else ("--camera-info", "--depth")
        raise FrameError(f"{given} needs {missing} with it; give both for 3D, or neither for pixels alone.")
    if args.depth_pose is not None and args.depth_camera_info is None:
        raise FrameError(
            "--depth-pose needs --depth-camera-info with it, the camera_info of the depth image."
        )
    if args.depth_camera_info is not None and args.depth is None:
        raise FrameError("--depth-camera-info needs --depth with it; give both, or neither.")
    return _points(args, query) if args.depth is None else _grasps(args, query)


def _points(args: argparse.Namespace, query: Query) -> dict[str, Any]:
    from molmo_ros.datatypes import Grounding
    from molmo_ros.draw import annotate
    from molmo_ros.io import read_color, write_color

    rgb = read_color(args.image)
    answer = options.load_grounder(args).point(rgb, query)
    if args.out:
        write_color(args.out, annotate(rgb, answer.points, query.text))
    keys = report.grounding_keys(Grounding(query.text, answer, (), dict(answer.stages_ms)))
    return {**keys, "picture": args.out} if args.out else keys


def _grasps(args: argparse.Namespace, query: Query) -> dict[str, Any]:
    from molmo_ros.grasp.gripper import Gripper
    from molmo_ros.io import read_frame
    from molmo_ros.perception.rectify import raw_grounding

    T = None if args.depth_pose is None else _transform(args.depth_pose)
    frame = read_frame(args.image, args.depth, args.camera_info, args.depth_camera_info, T)
    gripper = Gripper.load(args.gripper)
    grounding = options.load_grounder(args).grasp(frame, query)
    keys = report.grounding_keys(raw_grounding(grounding, frame.lens))
    if args.out:
        keys[options.write_answer(args.out, frame, grounding, gripper)] = args.out
    return keys


def _transform(pose: Sequence[float]) -> Array:
    """x, y, z m and a quaternion xyzw as (4,4)."""
    import numpy as np

    from molmo_ros.transforms import make_transform, matrix_from_quaternion

    try:
        return make_transform(matrix_from_quaternion(np.array(pose[3:])), np.array(pose[:3]))
    except TransformError as error:
        raise FrameError(f"--depth-pose: {error}") from error
