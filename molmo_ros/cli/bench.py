"""``molmo-ros bench``: the time of a query, stage by stage, on a simulated 640x480 frame."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from molmo_ros.cli import options
from molmo_ros.cli.output import progress

if TYPE_CHECKING:
    from molmo_ros.datatypes import Grounding
    from molmo_ros.pipeline import Grounder
    from molmo_ros.sim import SimCamera

NAME = "bench"
HELP = "time queries on a simulated 640x480 frame, stage by stage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument(
        "--repeat", type=options.integer(1, 10_000), default=50, metavar="N", help="queries (default 50)"
    )
    parser.add_argument(
        "--seed", type=options.integer(0, 2**32 - 1), default=7, metavar="S", help="scene (default 7)"
    )
    options.add_gripper(parser)
    options.add_model(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Load the model, warm it up with one query, and time the others."""
    from molmo_ros.pipeline import Grounder
    from molmo_ros.sim import SimCamera

    camera = SimCamera(args.seed)
    start = time.perf_counter()
    grounder = Grounder.load(
        args.checkpoint, args.runtime, args.gripper, progress("model"), precision=args.precision
    )
    load_ms = 1000 * (time.perf_counter() - start)
    wall_ms, groundings = _measure(grounder, camera, args.repeat)
    return {
        **summary(wall_ms, [g.stages_ms for g in groundings]),
        "targets_ok": sum(any(t.grasp is not None for t in g.targets) for g in groundings),
        "load_ms": round(load_ms, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "repeat": args.repeat,
        "checkpoint": args.checkpoint,
        "runtime": args.runtime,
        "image": [camera.width, camera.height],
    }


def _measure(grounder: Grounder, camera: SimCamera, repeat: int) -> tuple[list[float], list[Grounding]]:
    """Ask for the scene's objects in turn, each time on a new frame; the first query is not counted."""
    from tqdm import tqdm

    queries = ["the " + o.name for o in camera.truth.objects]
    grounder.grasp(camera.frame(), queries[0])
    wall_ms, groundings = [], []
    for i in tqdm(range(repeat), unit="query", file=sys.stderr, disable=None):
        frame = camera.frame()
        start = time.perf_counter()
        groundings.append(grounder.grasp(frame, queries[i % len(queries)]))
        wall_ms.append(1000 * (time.perf_counter() - start))
    return wall_ms, groundings


def summary(wall_ms: Sequence[float], stages: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return medians and 95th percentiles of the whole and of each stage, and the stages' shares."""
    import numpy as np

    names = [name for name in dict.fromkeys(n for s in stages for n in s) if name != "total"]
    times = {name: np.array([s.get(name, 0.0) for s in stages]) for name in names}
    return {
        "ms_query_p50": round(float(np.percentile(wall_ms, 50)), 2),
        "ms_query_p95": round(float(np.percentile(wall_ms, 95)), 2),
        "stages_ms": {name: round(float(np.percentile(t, 50)), 2) for name, t in times.items()},
        "stages_ms_p95": {name: round(float(np.percentile(t, 95)), 2) for name, t in times.items()},
        "stages_share": {name: round(float(t.sum() / sum(wall_ms)), 4) for name, t in times.items()},
    }


def text(result: dict[str, Any]) -> str:
    """Return a table of the stages."""
    lines = [f"{'stage':<12} {'p50 ms':>9} {'p95 ms':>9} {'share':>7}"]
    for name, p50 in result["stages_ms"].items():
        p95, share = result["stages_ms_p95"][name], result["stages_share"][name]
        lines.append(f"{name:<12} {p50:9.1f} {p95:9.1f} {100 * share:6.1f}%")
    lines.append(f"{'query':<12} {result['ms_query_p50']:9.1f} {result['ms_query_p95']:9.1f} {'100.0%':>7}")
    lines.append(
        f"{result['repeat']} queries on {result['checkpoint']}, runtime {result['runtime']}; "
        f"loaded in {result['load_ms']:.0f} ms, peak memory {result['peak_rss_mb']:.0f} MB"
    )
    return "\n".join(lines)
