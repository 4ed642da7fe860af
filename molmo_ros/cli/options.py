"""Options that several sub-commands share, and checks that should fail before minutes of work are spent."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from molmo_ros.errors import FrameError
from molmo_ros.perception.segmenters import SEGMENTERS
from molmo_ros.runtimes.names import PRECISIONS, RUNTIMES

if TYPE_CHECKING:
    from molmo_ros.datatypes import Grounding, RgbdFrame
    from molmo_ros.grasp.gripper import Gripper
    from molmo_ros.pipeline import Grounder

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def add_model(parser: argparse.ArgumentParser, *, remote: bool = False) -> None:
    """Add --checkpoint, --runtime and --precision; for ``load_grounder`` also where a model may come from."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--checkpoint",
        metavar="C",
        default="tiny",
        help="folder with the official files, hub id in the local cache, or tiny (built in, the default)",
    )
    group.add_argument(
        "--runtime",
        choices=(*RUNTIMES, "remote") if remote else RUNTIMES,
        default="auto",
        help="what runs the model (default auto)",
    )
    group.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="how the weights are held (default auto: as the engine, or what suits the CPU)",
    )
    if remote:
        group.add_argument(
            "--allow-download",
            action="store_true",
            help="fetch a hub id that is not in the cache (gigabytes)",
        )
        group.add_argument(
            "--remote-url",
            metavar="URL",
            default="http://localhost:8000/v1",
            help="OpenAI-compatible server for --runtime remote; its key is taken from $MOLMO_ROS_API_KEY "
            "(default http://localhost:8000/v1)",
        )
        group.add_argument(
            "--remote-model", metavar="M", default="", help="its name there (default: the only one)"
        )
        group.add_argument(
            "--remote-format",
            choices=("auto", "molmo1", "molmo2", "gemini"),
            default="auto",
            help="how it writes points (default auto: by its name)",
        )


def load_grounder(args: argparse.Namespace) -> Grounder:
    """The model and the gripper of the options; those of ``add_model`` with ``remote``."""
    from molmo_ros.cli.output import progress
    from molmo_ros.pipeline import Grounder
    from molmo_ros.runtimes.remote.remote import RemoteOptions

    return Grounder.load(
        args.checkpoint,
        args.runtime,
        args.gripper,
        progress("model"),
        precision=args.precision,
        allow_download=args.allow_download,
        remote=RemoteOptions(url=args.remote_url, model=args.remote_model, format=args.remote_format),
    )


def add_scenes(parser: argparse.ArgumentParser) -> None:
    """Add --scenes and --seed."""
    parser.add_argument("--scenes", type=integer(1, 100_000), default=100, metavar="N", help="default 100")
    parser.add_argument(
        "--seed", type=integer(0, 2**31 - 1), default=1, metavar="S", help="of the first scene (default 1)"
    )


def add_gripper(parser: argparse.ArgumentParser) -> None:
    """Add --gripper."""
    parser.add_argument(
        "--gripper", metavar="G", default="franka_hand", help="preset name or YAML file (default franka_hand)"
    )


def add_segmenter(parser: argparse.ArgumentParser) -> None:
    """Add --segmenter."""
    parser.add_argument(
        "--segmenter",
        choices=SEGMENTERS,
        default="auto",
        help="what finds the mask of the object: a network, geometry, or whichever is sure (auto)",
    )


def path(text: str) -> str:
    """Return an argparse type: a path, with ~ for the home folder, which no shell expands after ``=``."""
    return os.path.expanduser(text)


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return an argparse type: an integer from low to high."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number; give {low} to {high}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is out of range; give {low} to {high}")
        return value

    return parse


def check_answer_path(path: str | None) -> None:
    """As check_picture_path, for a picture or a recording (.mcap, .rrd)."""
    from molmo_ros.recording.output import RECORDINGS, check_output

    if path is not None and path.lower().endswith(RECORDINGS):
        check_output(path, RECORDINGS)
    elif path is not None and Path(path).suffix.lower() not in PICTURES:
        raise FrameError(
            f"Cannot write {path}; give a name that ends in {', '.join((*PICTURES, *RECORDINGS))}."
        )
    else:
        check_picture_path(path)


def write_answer(path: str, frame: RgbdFrame, found: Grounding, gripper: Gripper) -> str:
    """Write a picture or a recording, by the ending; return which: "picture" or "recording"."""
    from molmo_ros.draw import picture
    from molmo_ros.io import save_picture
    from molmo_ros.recording.output import RECORDINGS, save_answer

    if path.lower().endswith(RECORDINGS):
        save_answer(path, frame, found)
        return "recording"
    save_picture(picture(frame, found, gripper), path)
    return "picture"


def check_picture_path(path: str | None) -> None:
    """Raises: FrameError if no picture can be written there."""
    if path is None:
        return
    target = Path(path)
    if target.suffix.lower() not in PICTURES:
        raise FrameError(f"Cannot write a picture to {path}; give a name that ends in {', '.join(PICTURES)}.")
    if not target.parent.is_dir():
        raise FrameError(
            f"There is no folder {target.parent}; make it, or give another path for {target.name}."
        )
    if not os.access(target.parent, os.W_OK) or target.is_dir():
        raise FrameError(f"Cannot write {path}; choose a file in a folder you may write to.")
