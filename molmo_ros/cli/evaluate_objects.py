"""``molmo-ros eval objects``: recorded frames with points on objects, planned for and looked at."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from molmo_ros.cli import options

if TYPE_CHECKING:
    from molmo_ros.datatypes import Array, GraspTarget, RgbdFrame
    from molmo_ros.perception.find_object import Segmenter
    from molmo_ros.tools.objects.layout import Labelled

HELP = "recorded frames with points on objects: what becomes of each, and a contact sheet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this mode."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="folder with NAME_color.png, NAME_depth.png and NAME_points.json of each frame, and "
        "camera_info.yaml (docs/eval_objects.md)",
    )
    parser.add_argument("--out", metavar="PNG", help="contact sheet to write")
    options.add_gripper(parser)
    options.add_segmenter(parser)
    parser.add_argument(
        "--true-mask",
        action="store_true",
        help="plan with the polygons and labels as masks, where there are any: what is refused then, is not "
        "for the mask",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Plan for every point, with a progress bar on standard error."""
    from tqdm import tqdm

    from molmo_ros.grasp.gripper import Gripper
    from molmo_ros.target import find_target
    from molmo_ros.tools.objects.evaluate import evaluate, summary
    from molmo_ros.tools.objects.layout import read_folder
    from molmo_ros.tools.objects.sheet import contact_sheet

    options.check_picture_path(args.out)
    gripper = Gripper.load(args.gripper)

    def find(frame: RgbdFrame, label: Labelled, up: Array | None) -> GraspTarget:
        known = _given(label) if args.true_mask else None
        return find_target(frame, label.point, gripper, up, segmenter=known or args.segmenter)

    results = evaluate(read_folder(args.data), find, gripper)
    with tqdm(results, unit="target", file=sys.stderr, disable=None) as bar:
        seen = [(one.frame, result) for one, result in bar]
    if args.out:
        contact_sheet(seen, gripper).save(args.out)
    return summary([result for _, result in seen])


def _given(label: Labelled) -> Segmenter | None:
    """Return what gives the labelled mask to every frame, or None if there is none."""
    mask = label.mask
    return None if mask is None else lambda frame, point: mask


def text(result: dict[str, Any]) -> str:
    """Return the table."""
    from molmo_ros.tools.objects.evaluate import table

    return table(result)
