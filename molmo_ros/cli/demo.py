"""``molmo-ros demo``: one query on a simulated camera, from the words to the grasp."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from molmo_ros.cli import options, report
from molmo_ros.cli.output import progress, say

if TYPE_CHECKING:
    from molmo_ros.sim import SimCamera

NAME = "demo"
HELP = "ask the built-in model for an object on a simulated table, and draw the grasp"
SEED = 31  # a red mug, partly behind a bottle
text = report.block


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument("--query", metavar="Q", help="what to find (default: an object of the scene)")
    parser.add_argument(
        "--seed",
        type=options.integer(0, 2**32 - 1),
        default=SEED,
        metavar="N",
        help=f"scene (default {SEED})",
    )
    parser.add_argument(
        "--out",
        type=options.path,
        default="demo.png",
        metavar="FILE",
        help="picture to write (default demo.png), or a recording for Foxglove (.mcap) or Rerun (.rrd)",
    )
    parser.add_argument(
        "--ros", action="store_true", help="through real ROS 2 nodes, instead of in this process"
    )
    options.add_gripper(parser)
    options.add_model(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the query and write the picture."""
    (options.check_picture_path if args.ros else options.check_answer_path)(args.out)
    if args.query is not None:
        from molmo_ros.checkpoint.query import parse_query

        args.query = parse_query(args.query).text
    return _run_ros(args) if args.ros else _run_here(args)


def _run_here(args: argparse.Namespace) -> dict[str, Any]:
    from molmo_ros.grasp.gripper import Gripper
    from molmo_ros.pipeline import Grounder
    from molmo_ros.sim import SimCamera

    gripper = Gripper.load(args.gripper)
    say("building the scene ...")
    camera = SimCamera(args.seed)
    grounder = Grounder.load(
        args.checkpoint, args.runtime, args.gripper, progress("model"), precision=args.precision
    )
    frame = camera.frame()
    grounding = grounder.grasp(frame, args.query or default_query(camera))
    kind = options.write_answer(args.out, frame, grounding, gripper)
    return {**report.grounding_keys(grounding), kind: args.out, "seed": args.seed}


def default_query(camera: SimCamera) -> str:
    """Return the name of the first object that has a name of its own."""
    names = [o.name for o in camera.scene.objects]
    return "the " + next((name for name in names if names.count(name) == 1), names[0])


def _run_ros(args: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import replace

    from molmo_ros.ros.demo import run_demo
    from molmo_ros.sim import SimCamera

    query = args.query or default_query(SimCamera(args.seed))
    result = run_demo(
        query,
        args.seed,
        args.out,
        checkpoint=args.checkpoint,
        runtime=args.runtime,
        gripper=args.gripper,
        say=say,
    )
    stages = dict(result["stages_ms"])
    stages["total"] = stages.pop("service_round_trip")
    keys = report.grounding_keys(replace(result["grounding"], stages_ms=stages))
    return {**keys, "picture": str(result["picture"]), "seed": args.seed}
