"""``molmo-ros replay``: the query on the frames of a recording, without ROS."""

from __future__ import annotations

import argparse
import math
import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from molmo_ros.cli import options
from molmo_ros.errors import MolmoRosError

if TYPE_CHECKING:
    from molmo_ros.checkpoint.query import Query
    from molmo_ros.recording.bag import Bag, BagTopics

NAME = "replay"
HELP = (
    "ask on the frames of a rosbag2 recording (sqlite3 or MCAP): targets as JSON, MCAP or .rrd, and a video"
)
FILMS = (".mp4", *options.PICTURES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument(
        "bag", type=options.path, metavar="BAG", help="folder that ros2 bag record made, or a file in it"
    )
    parser.add_argument("--query", metavar="Q", required=True, help='what to find, such as "the red mug"')
    parser.add_argument(
        "--every",
        type=options.integer(1, 100_000),
        default=10,
        metavar="N",
        help="ask the model on every Nth frame (default 10)",
    )
    parser.add_argument("--track", action="store_true", help="follow the targets on the frames in between")
    parser.add_argument(
        "--target-frame",
        metavar="F",
        default="",
        help="frame of the targets, by the bag's tf (default: optical)",
    )
    parser.add_argument(
        "--out",
        type=options.path,
        metavar="FILE",
        action="append",
        help="JSON lines (.jsonl), or a recording for Foxglove (.mcap) or Rerun (.rrd); "
        "may be given several times (default replay.jsonl)",
    )
    parser.add_argument(
        "--film",
        type=options.path,
        metavar="FILE",
        default="replay.mp4",
        help="video .mp4, or contact sheet .png (default replay.mp4)",
    )
    topics = parser.add_argument_group("topics (found by type where there is no choice)")
    topics.add_argument("--image", metavar="T", default="", help="colour, raw or compressed")
    topics.add_argument("--depth", metavar="T", default="", help="depth, raw or compressedDepth")
    topics.add_argument("--camera-info", metavar="T", default="", help="camera_info of the colour image")
    topics.add_argument(
        "--depth-camera-info",
        metavar="T",
        default="",
        help="that of depth that is not aligned to colour (default: the one beside it)",
    )
    topics.add_argument(
        "--slop",
        type=_seconds,
        default=0.02,
        metavar="S",
        help="largest difference of stamps (default 0.02 s)",
    )
    options.add_gripper(parser)
    options.add_model(parser, remote=True)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Check everything that is cheap to check, then load the model and go through the bag."""
    from molmo_ros.checkpoint.query import parse_query
    from molmo_ros.recording.bag import open_bag
    from molmo_ros.recording.output import ENDINGS, check_output

    query = parse_query(args.query)
    args.out = args.out or ["replay.jsonl"]
    for path in args.out:
        check_output(path, ENDINGS)
    check_output(args.film, FILMS)
    with open_bag(args.bag) as bag:
        topics = bag.find_topics(args.image, args.depth, args.camera_info, args.depth_camera_info)
        return {
            "bag": args.bag,
            "query": query.text,
            "topics": vars(topics),
            **_replay(args, query, bag, topics),
        }


def _replay(args: argparse.Namespace, query: Query, bag: Bag, topics: BagTopics) -> dict[str, Any]:
    from tqdm import tqdm

    from molmo_ros.draw import annotate
    from molmo_ros.draw.film import Film
    from molmo_ros.recording.output import open_output
    from molmo_ros.recording.replay import Replay

    rate_hz = bag.rate_hz(topics.image) / (1 if args.track else args.every)
    count = {"frames": 0, "with_targets": 0, "failed": 0}
    error: MolmoRosError | None = None
    with ExitStack() as stack:
        outputs = [stack.enter_context(closing(open_output(path))) for path in args.out]
        film = stack.enter_context(Film(args.film, rate_hz))
        replay = Replay(options.load_grounder(args), query, args.every, args.track, args.target_frame)
        for result in tqdm(replay.run(bag, topics, args.slop), unit="frame", file=sys.stderr, disable=None):
            for output in outputs:
                output.add(result)
            count["frames"] += 1
            count["failed"] += result.found is None
            error = error or result.error
            if result.frame is not None and result.found is not None:
                count["with_targets"] += bool(result.found.targets)
                film.add(annotate(result.frame.rgb, result.found.targets, query.text))
    if error is not None and count["failed"] == count["frames"]:
        raise error
    return {**count, "unpaired": bag.unpaired, "written": args.out, "film": args.film}


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give 0 to 1 s")
    return value


def text(result: dict[str, Any]) -> str:
    """Return what was read and what was found."""
    topics = ", ".join(topic for topic in result["topics"].values() if topic)
    lines = [
        f"{result['bag']}: {topics}",
        f"{result['query']!r}: targets on {result['with_targets']} of {result['frames']} frames, "
        f"{result['failed']} failed; {result['unpaired']} images had no depth or camera_info",
        ", ".join([*result["written"], result["film"]]),
    ]
    return "\n".join(lines)
