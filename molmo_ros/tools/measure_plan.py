"""How long planning takes on one core: ``OMP_NUM_THREADS=1 python -m molmo_ros.tools.measure_plan``.

CPU time of one thread from a pixel to a grasp (lift, object, hidden half, grasp), in a loop over rendered
scenes: all other scenes of a round are planned before one comes up again. `molmo-ros eval grasp` measures it
too, but there each target is planned once, between rendering and physics, with cold caches.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cv2
import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.tools.grasp_physics.case import FAMILIES
from molmo_ros.tools.grasp_physics.families import draw_case
from molmo_ros.tools.grasp_physics.plan import plan
from molmo_ros.tools.grasp_physics.view import click, look


def measure(family: str, seed: int, scenes: int, repeat: int, gripper: Gripper) -> Array:
    """Return the CPU time (scenes,) ms of planning for each scene, the median of `repeat` rounds."""
    views = [look(draw_case(family, seed + i)) for i in range(scenes)]
    points = [click(view) for view in views]
    rounds = [
        [plan(view, point, gripper).cpu_ms for view, point in zip(views, points, strict=True)]
        for _ in range(repeat + 1)
    ]
    return np.asarray(np.median(rounds[1:], axis=0))  # the first round imports and warms up


def main(argv: Sequence[str] | None = None) -> None:
    """Print the median and the 95th percentile over the scenes of each family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--family", nargs="+", default=["single", "clutter"], choices=FAMILIES)
    parser.add_argument("--scenes", type=int, default=100, help="of each family (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene (default 0)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--gripper", default="franka_hand", help="preset or YAML file (default franka_hand)")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    gripper = Gripper.load(args.gripper)
    for family in args.family:
        ms = measure(family, args.seed, args.scenes, args.repeat, gripper)
        median, slow = np.percentile(ms, [50, 95])
        print(f"{family}: CPU p50 {median:.1f}, p95 {slow:.1f} ms, {args.scenes} scenes")


if __name__ == "__main__":
    main()
