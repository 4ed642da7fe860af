"""``molmo-ros engine quantise``: round a checkpoint to few bits with care, once, for all runtimes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from molmo_ros.cli.options import integer, path
from molmo_ros.cli.output import progress, say
from molmo_ros.errors import ParameterError

HELP = "round to int4 or int8 with AWQ and GPTQ; the folder that results is a checkpoint for all commands"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the action."""
    parser.add_argument(
        "--checkpoint", type=path, metavar="C", default="tiny", help="folder, cached hub id, or tiny"
    )
    parser.add_argument("--precision", choices=("int4", "int8"), default="int4", help="default int4")
    parser.add_argument(
        "--method",
        choices=("rtn", "awq", "gptq", "awq+gptq"),
        default="gptq",
        help="rtn rounds to nearest; default gptq",
    )
    parser.add_argument(
        "--keep",
        type=float,
        default=0.0,
        metavar="BITS",
        help="hold the worst matrices in 8 bits, up to so many bits a weight on average, such as 4.6",
    )
    parser.add_argument(
        "--samples", type=integer(1, 100_000), default=128, metavar="N", help="questions (default 128)"
    )
    parser.add_argument(
        "--out", type=path, metavar="DIR", help="folder (default: below the user's data folder)"
    )
    data = parser.add_argument_group("calibration data (default: simulated scenes)")
    source = data.add_mutually_exclusive_group()
    source.add_argument("--images", type=path, metavar="DIR", help="folder of your own pictures")
    source.add_argument("--bag", type=path, metavar="BAG", help="recording of your own camera")
    data.add_argument("--image", metavar="T", default="", help="colour topic of the recording")
    data.add_argument(
        "--query", metavar="Q", action="append", default=[], help="what you will ask for; may be repeated"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Quantise, with one line of progress."""
    from molmo_ros.checkpoint.checkpoint import load_checkpoint
    from molmo_ros.checkpoint.rounded import read_rounded
    from molmo_ros.network.weights import HEAD
    from molmo_ros.quantise.run import Plan, quantise
    from molmo_ros.runtimes.engine_store import engine_home

    if args.query and not (args.images or args.bag):
        raise ParameterError("--query needs --images or --bag: simulated scenes have their own questions.")
    if (args.images or args.bag) and not args.query:
        raise ParameterError('Say what is asked about your pictures: --query "the red mug", once for each.')
    checkpoint = load_checkpoint(args.checkpoint)
    kept = f"-keep{args.keep:g}" if args.keep else ""
    name = f"{checkpoint.folder.name}-{args.precision}-{args.method}{kept}"
    folder = Path(args.out) if args.out else engine_home().parent / "quantised" / name
    data = args.images or args.bag or "simulated scenes"
    plan = Plan(args.precision, args.method, args.keep, args.samples, data)
    quantise(checkpoint, folder, plan, _questions(args), progress("quantise"), say)
    rounded = read_rounded(folder)
    assert rounded is not None
    errors = {name: [entry["error"], entry["error_nearest"]] for name, entry in rounded.matrices.items()}
    kept_names = [n for n, entry in rounded.matrices.items() if entry["kind"] != args.precision and n != HEAD]
    facts = {key: value for key, value in rounded.facts.items() if key != "sensitivity"}
    return {
        "folder": folder, "precision": rounded.precision, **facts, "kept": kept_names, "errors": errors,
        "bytes": sum(path.stat().st_size for path in rounded.files),
    }  # fmt: skip


def text(result: dict[str, Any]) -> str:
    """Return where it is, how well it went, and how to use it."""
    ratios = [error / nearest for error, nearest in result["errors"].values() if nearest > 0]
    mean = sum(ratios) / len(ratios) if ratios else 1.0
    kept = f", {len(result['kept'])} matrices in 8 bits" if result["kept"] else ""
    return (
        f"{result['folder']}: {result['precision']} by {result['method']}, {result['bits']:.2f} bits a weight"
        f"{kept}, {result['bytes'] / 1e6:.1f} MB\n"
        f"squared error of the outputs of a matrix: {100 * mean:.0f} % of that of rounding to nearest\n"
        f"use it as --checkpoint {result['folder']} --precision {result['precision']}"
    )


def _questions(args: argparse.Namespace) -> Iterator[Any]:
    from molmo_ros.quantise import pictures
    from molmo_ros.quantise.samples import simulated

    if args.images:
        return pictures.from_folder(Path(args.images), args.query, args.samples)
    if args.bag:
        return pictures.from_bag(Path(args.bag), args.query, args.samples, args.image)
    return simulated(args.samples)
