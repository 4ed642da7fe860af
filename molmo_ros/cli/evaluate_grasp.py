"""``molmo-ros eval grasp``: grasps planned on simulated frames and executed in physics."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from molmo_ros.cli import options
from molmo_ros.errors import ParameterError

if TYPE_CHECKING:
    from molmo_ros.tools.grasp_physics.evaluate import Setting

HELP = "grasps planned on simulated frames and executed in physics"
REPORT_SEED = 10_000
USUAL = ["single", "clutter", "thin", "rim", "infeasible"]
SWEPT = ["single", "clutter"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this mode."""
    group = parser.add_argument_group("grasp")
    group.add_argument(
        "--seed",
        type=options.integer(0, 2**31 - 1),
        default=REPORT_SEED,
        metavar="S",
        help=f"default {REPORT_SEED}; those below are for tuning",
    )
    group.add_argument(
        "--family",
        action="append",
        metavar="F",
        help="scene family, may be repeated (default single, clutter, thin, rim, infeasible); all: every one",
    )
    group.add_argument(
        "--targets",
        type=options.integer(1, 100_000),
        default=60,
        metavar="N",
        help="of each family (default 60)",
    )
    group.add_argument(
        "--jobs",
        type=options.integer(1, 256),
        default=os.cpu_count() or 1,
        metavar="J",
        help="processes (default: all cores; 1 to measure time)",
    )
    group.add_argument(
        "--points",
        choices=["truth", "model"],
        default="truth",
        help="pixels in the true mask, or those of --checkpoint, asked by colour and kind (default truth)",
    )
    group.add_argument("--true-mask", action="store_true", help="plan with the true mask of the target")
    group.add_argument("--controls", action="store_true", help="run two simple graspers on the same targets")
    group.add_argument("--friction", type=float, default=0.5, metavar="MU", help="of the pads (default 0.5)")
    group.add_argument(
        "--pose-error", type=float, default=0.0, metavar="MM", help="of the robot, sigma per axis (default 0)"
    )
    group.add_argument(
        "--jitter", type=float, default=0.0, metavar="PX", help="of the point, sigma per axis (default 0)"
    )
    group.add_argument(
        "--sensor",
        choices=["stereo", "structured_light", "tof", "perfect", "dropout"],
        default="stereo",
        help="that measures depth (default stereo); the families clean, noisy and holes keep dropout",
    )
    group.add_argument(
        "--noise",
        type=float,
        metavar="X",
        help="scale of the noise, with --sensor dropout (default: the family's)",
    )
    group.add_argument(
        "--oracle", action="store_true", help="search by brute force for grasps of what was not held"
    )
    group.add_argument("--sheet", type=options.path, metavar="PNG", help="write a picture of the failures")
    group.add_argument(
        "--film", type=options.path, metavar="PNG", help="write a picture of grasps that hold, stage by stage"
    )
    group.add_argument(
        "--robustness",
        type=options.path,
        metavar="PNG",
        help="sweep friction, errors of robot and point, noise and sensor "
        "(default families single and clutter); draw the result",
    )
    options.add_gripper(parser)
    options.add_model(parser)
    options.add_segmenter(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the targets, with a progress bar on standard error."""
    from tqdm import tqdm

    from molmo_ros.grasp.gripper import Gripper
    from molmo_ros.tools.grasp_physics.case import NAMES
    from molmo_ros.tools.grasp_physics.evaluate import Setting, run_all
    from molmo_ros.tools.grasp_physics.families import check_family
    from molmo_ros.tools.grasp_physics.quality import attempts, reliability
    from molmo_ros.tools.grasp_physics.report import summary
    from molmo_ros.tools.grasp_physics.sheet import contact_sheet, held_pictures

    for picture in (args.sheet, args.film, args.robustness):
        options.check_picture_path(picture)
    families = args.family or (SWEPT if args.robustness else USUAL)
    families = list(NAMES) if families == ["all"] else [check_family(f) for f in families]
    if args.noise is not None and args.sensor != "dropout":
        raise ParameterError(f"--noise scales the dropout sensor, not {args.sensor}; add --sensor dropout.")
    Gripper.load(args.gripper)  # a mistake is reported before the work begins
    setting = Setting(
        gripper=args.gripper,
        points=args.checkpoint if args.points == "model" else "truth",
        segmenter="truth" if args.true_mask else args.segmenter,
        friction=args.friction,
        pose_error_m=args.pose_error / 1000,
        jitter_px=args.jitter,
        sensor=args.sensor,
        noise=args.noise,
        controls=args.controls,
        oracle=args.oracle,
    )
    first = args.seed
    if args.robustness:
        return _robustness(args, families, range(first, first + args.targets), setting)
    work = [(f, first + i, setting) for f in families for i in range(args.targets)]
    with tqdm(total=len(work), unit="target", file=sys.stderr, disable=None) as bar:
        records = run_all(work, args.jobs, lambda _: bar.update())
    if args.sheet:
        contact_sheet(records, setting).save(args.sheet)
    if args.film:
        held_pictures(records, setting).save(args.film)
    tried = attempts(records)
    told = {"quality": reliability(*tried)} if len(tried[0]) else {}
    return {**summary(records), **told, "seed": first, "setting": setting, "records": records}


def _robustness(
    args: argparse.Namespace, families: list[str], seeds: range, setting: Setting
) -> dict[str, Any]:
    """Sweep, and draw."""
    from tqdm import tqdm

    from molmo_ros.tools.grasp_physics.robustness import count, plot, sweep

    total = count(setting) * len(families) * len(seeds)
    with tqdm(total=total, unit="target", file=sys.stderr, disable=None) as bar:
        result = sweep(families, seeds, setting, args.jobs, lambda _: bar.update())
    plot(result, args.robustness)
    return {"robustness": result, "seed": seeds[0], "targets": len(seeds)}


def text(result: dict[str, Any]) -> str:
    """Return the table."""
    if "robustness" in result:
        from molmo_ros.tools.grasp_physics.robustness import sweep_table

        return sweep_table(result["robustness"])
    from molmo_ros.tools.grasp_physics.report import table

    return table(result)
