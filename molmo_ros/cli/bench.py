"""``molmo-ros bench``: the time of a query on a simulated 640x480 frame, compared with transformers'
generate."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molmo_ros.cli import options
from molmo_ros.cli.output import progress, say

if TYPE_CHECKING:
    from molmo_ros.checkpoint.checkpoint import Checkpoint
    from molmo_ros.datatypes import Grounding
    from molmo_ros.pipeline import Grounder
    from molmo_ros.sim import SimCamera
    from molmo_ros.tools.benchmark import Transformers

NAME = "bench"
HELP = "time queries on a simulated 640x480 frame, stage by stage, beside transformers"
RANDOM = "random"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument(
        "--repeat", type=options.integer(1, 10_000), default=50, metavar="N", help="queries (default 50)"
    )
    parser.add_argument(
        "--seed", type=options.integer(0, 2**32 - 1), default=7, metavar="S", help="scene (default 7)"
    )
    parser.add_argument(
        "--transformers",
        choices=["none", "float32", "bfloat16", "both"],
        default="float32",
        help="do the same work by transformers' generate, where it is installed (default float32)",
    )
    parser.add_argument(
        "--ros", action="store_true", help="from a service call to published targets, through real nodes"
    )
    parser.add_argument(
        "--device-report",
        type=Path,
        metavar="FILE",
        help="instead: check and time the GPU here with a random Molmo2-4B, into this JSON file",
    )
    options.add_gripper(parser)
    options.add_model(parser)
    parser.epilog = (
        f"--checkpoint {RANDOM}: 230 million random weights, made on first use, that say one point"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Load the model, warm it up with one query, and time the others."""
    if args.ros:
        return _run_ros(args)
    if args.device_report is not None:
        from molmo_ros.tools.device_report import device_report

        return device_report(args.device_report)
    from molmo_ros.answer.molmo import Molmo
    from molmo_ros.sim import SimCamera
    from molmo_ros.tools import benchmark

    camera = SimCamera(args.seed)
    start = time.perf_counter()
    checkpoint, grounder, said = _load(args)
    load_ms = 1000 * (time.perf_counter() - start)
    wall_ms, groundings = _measure(grounder, camera, args.repeat)
    peak_rss_mb = _peak_rss_mb()  # of our part: transformers comes later
    frames = [camera.frame().rgb for _ in range(args.repeat + 1)]
    others, why = _transformers(checkpoint, args.transformers)
    assert isinstance(grounder.model, Molmo)
    times = benchmark.compare(grounder.model, frames, _queries(camera), others, said).summary()
    info = grounder.model.info
    return {
        **summary(wall_ms, [g.stages_ms for g in groundings]),
        **times,
        "transformers": why,
        "limit": benchmark.limit(checkpoint, info["precision"], times["ms_token_p50"]),
        "targets_ok": sum(any(t.grasp is not None for t in g.targets) for g in groundings),
        "load_ms": round(load_ms, 1),
        "peak_rss_mb": peak_rss_mb,
        "peak_rss_with_transformers_mb": _peak_rss_mb() if others else None,
        "parameters": info["parameters"],
        "repeat": args.repeat,
        "checkpoint": args.checkpoint,
        "runtime": info["runtime"],
        "precision": info["precision"],
        "image": [camera.width, camera.height],
    }


def _run_ros(args: argparse.Namespace) -> dict[str, Any]:
    from molmo_ros.cli.demo import default_query
    from molmo_ros.ros.bench import run_bench
    from molmo_ros.sim import SimCamera

    return run_bench(
        default_query(SimCamera(args.seed)),
        args.seed,
        args.repeat,
        checkpoint=args.checkpoint,
        runtime=args.runtime,
        gripper=args.gripper,
        say=say,
    )


def _load(args: argparse.Namespace) -> tuple[Checkpoint, Grounder, list[int] | None]:
    """The model, and what it will say if its weights are random."""
    from molmo_ros.checkpoint.checkpoint import load_checkpoint
    from molmo_ros.pipeline import Grounder

    if args.checkpoint != RANDOM:
        grounder = Grounder.load(
            args.checkpoint, args.runtime, args.gripper, progress("model"), precision=args.precision
        )
        return load_checkpoint(args.checkpoint), grounder, None

    from molmo_ros.answer.molmo import Molmo
    from molmo_ros.grasp.gripper import Gripper
    from molmo_ros.runtimes.select import load_runtime
    from molmo_ros.tools.benchmark import ONE_POINT, Prompted
    from molmo_ros.tools.random_model import cached_random_model

    checkpoint = load_checkpoint(str(cached_random_model()))
    runtime = load_runtime(checkpoint, args.runtime, args.precision, progress=progress("model"))
    prompted = Prompted(runtime, checkpoint, ONE_POINT)
    return checkpoint, Grounder(Molmo(checkpoint, prompted), Gripper.load(args.gripper)), prompted.answer


def _transformers(checkpoint: Checkpoint, which: str) -> tuple[dict[str, Transformers], str]:
    """The models to compare with, and their version or why there are none."""
    if which == "none":
        return {}, "not asked for"
    if checkpoint.config.model_type != "molmo2":
        return {}, f"has no {checkpoint.config.model_type}"
    try:
        import torch
        import transformers

        from molmo_ros.tools.benchmark import Transformers

        dtypes = ["float32", "bfloat16"] if which == "both" else [which]
        models = {dtype: Transformers(checkpoint, dtype) for dtype in dtypes}
    except ImportError as error:
        return {}, f"not installed ({error}); in the folder of molmo_ros: pip install '.[eager]'"
    return models, f"transformers {transformers.__version__}, torch {torch.__version__}"


def _peak_rss_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _queries(camera: SimCamera) -> list[str]:
    return ["the " + o.name for o in camera.truth.objects]


def _measure(grounder: Grounder, camera: SimCamera, repeat: int) -> tuple[list[float], list[Grounding]]:
    """Ask for the scene's objects in turn, each time on a new frame; the first query is not counted."""
    from tqdm import tqdm

    queries = _queries(camera)
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
    if "machine" in result:
        from molmo_ros.tools import device_report

        return device_report.text(result)
    lines = [f"{'stage':<14} {'p50 ms':>9} {'p95 ms':>9} {'share':>7}"]
    for name, share in result["stages_share"].items():
        p50, p95 = result["stages_ms"][name], result["stages_ms_p95"][name]
        lines.append(f"{name:<14} {p50:9.1f} {p95:9.1f} {100 * share:6.1f}%")
    if "ms_targets_p50" in result:
        p50, p95 = result["ms_targets_p50"], result["ms_targets_p95"]
        lines.append(f"{'call to topic':<14} {p50:9.1f} {p95:9.1f}")
        return "\n".join(
            [*lines, "", f"{result['queries']} queries for {result['query']} through ROS 2 nodes"]
        )
    lines.append(f"{'query':<14} {result['ms_query_p50']:9.1f} {result['ms_query_p95']:9.1f} {'100.0%':>7}")
    lines += ["", *_points_text(result)]
    lines.append(
        f"{result['repeat']} queries on {result['checkpoint']}, "
        f"{result['parameters'] / 1e6:.1f} M parameters; "
        f"runtime {result['runtime']}, {result['precision']}; loaded in {result['load_ms']:.0f} ms, "
        f"peak memory {result['peak_rss_mb']:.0f} MB"
    )
    return "\n".join(lines)


def _points_text(result: dict[str, Any]) -> list[str]:
    """From the picture to points: the model's part, and transformers for comparison."""
    part = result["limit"]
    lines = [
        f"to points    {result['ms_points_p50']:9.1f} ms, {result['passes']:.1f} passes "
        f"(token by token: {result['passes_plain']:.1f})",
        f"first token  {result['ms_first_token_p50']:9.1f} ms",
        f"second query {result['ms_second_query_p50']:9.1f} ms on the same picture",
        f"token        {result['ms_token_p50']:9.2f} ms, {100 * part['fraction']:.0f} % of what reading "
        f"{part['bytes_per_token'] / 1e6:.0f} MB at {part['bandwidth_gbs']:.1f} GB/s allows",
    ]
    for name, value in result.items():
        if name.startswith("ms_transformers"):
            dtype = name.removeprefix("ms_transformers").removesuffix("_p50").lstrip("_")
            ratio = result[f"ratio_vs_transformers{'_' + dtype if dtype else ''}"]
            lines.append(
                f"transformers {value:9.1f} ms in {dtype or 'float32'}, generate: {ratio:.2f} times ours"
            )
    if result["ratio_vs_transformers"] is None:
        lines.append(f"transformers: {result['transformers']}")
    return lines
