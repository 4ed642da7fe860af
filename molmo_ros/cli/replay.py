"""``molmo-ros replay``: the query on the frames of a recording, without ROS."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molmo_ros.cli import options, report
from molmo_ros.cli.output import to_plain
from molmo_ros.errors import FrameError, MolmoRosError

if TYPE_CHECKING:
    from molmo_ros.checkpoint.query import Query
    from molmo_ros.recording.bag import Bag, BagTopics
    from molmo_ros.recording.replay import Replayed

NAME = "replay"
HELP = "ask on the frames of a rosbag2 recording (sqlite3 or MCAP): targets as JSON lines, and a video"
ENDINGS = (".mp4", *options.PICTURES)


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
        "--out", type=options.path, metavar="JSONL", default="replay.jsonl", help="default replay.jsonl"
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

    query = parse_query(args.query)
    _check_out(args.out, (".jsonl", ".json"))
    _check_out(args.film, ENDINGS)
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
    from molmo_ros.recording.replay import Replay

    replay = Replay(options.load_grounder(args), query, args.every, args.track, args.target_frame)
    rate_hz = bag.rate_hz(topics.image) / (1 if args.track else args.every)
    count = {"frames": 0, "with_targets": 0, "failed": 0}
    error: MolmoRosError | None = None
    with Path(args.out).open("w", encoding="utf-8") as lines, Film(args.film, rate_hz) as film:
        for result in tqdm(replay.run(bag, topics, args.slop), unit="frame", file=sys.stderr, disable=None):
            lines.write(json.dumps(to_plain(_record(result)), ensure_ascii=False) + "\n")
            count["frames"] += 1
            count["failed"] += result.found is None
            error = error or result.error
            if result.frame is not None and result.found is not None:
                count["with_targets"] += bool(result.found.targets)
                film.add(annotate(result.frame.rgb, result.found.targets, query.text))
    if error is not None and count["failed"] == count["frames"]:
        raise error
    return {**count, "unpaired": bag.unpaired, "targets_file": args.out, "film": args.film}


def _record(result: Replayed) -> dict[str, Any]:
    """One line: the keys of ``molmo-ros ground --json``, or the error."""
    from molmo_ros.perception.rectify import raw_grounding

    head = {"frame": result.number, "stamp_ns": result.stamp_ns, "asked": result.asked}
    if result.found is None:
        return {**head, "error": str(result.error), "code": getattr(result.error, "code", "ERROR")}
    lens = None if result.frame is None else result.frame.lens
    return {**head, **report.grounding_keys(raw_grounding(result.found, lens))}


def _check_out(path: str, endings: tuple[str, ...]) -> None:
    if not path.lower().endswith(endings):
        raise FrameError(f"Cannot write {path}; give a name that ends in {', '.join(endings)}.")
    if not Path(path).absolute().parent.is_dir():
        raise FrameError(f"There is no folder {Path(path).parent}; make it, or give another path.")


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
        f"{result['targets_file']}, {result['film']}",
    ]
    return "\n".join(lines)
