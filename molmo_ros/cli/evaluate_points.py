"""``molmo-ros eval points``: pointing and counting by the protocols of Molmo's published numbers."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from molmo_ros.cli import options
from molmo_ros.cli.output import to_plain
from molmo_ros.runtimes.names import PRECISIONS

HELP = "published pointing and counting data sets, from local folders, scored as their authors do"
NAMES = ("pixmo-points", "point-bench", "pixmo-count", "countbench", "point-explanations")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this mode."""
    parser.add_argument(
        "--data",
        required=True,
        type=options.path,
        metavar="DIR",
        help="the data set as published (docs/eval_points.md)",
    )
    parser.add_argument("--protocol", required=True, choices=NAMES, help="which data set it is")
    parser.add_argument(
        "--images", type=options.path, metavar="DIR", help="its pictures (default DIR/images)"
    )
    parser.add_argument(
        "--split", default="", metavar="S", help="default: the one that is evaluated officially"
    )
    parser.add_argument(
        "--template", default="", metavar="T", help="another question, such as 'Locate every {label}.'"
    )
    parser.add_argument(
        "--limit", type=options.integer(1, 10**7), metavar="N", help="the first N examples only"
    )
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        choices=PRECISIONS,
        metavar="P",
        help="also in this precision, side by side; may be repeated",
    )
    parser.add_argument(
        "--out",
        type=options.path,
        metavar="DIR",
        help="folder for answers, report.json and report.html; a run that was killed goes on from it "
        "(default points-PROTOCOL)",
    )
    options.add_model(parser, remote=True)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate each precision, with a progress bar on standard error, and write the reports."""
    from molmo_ros.tools.points_eval.evaluate import summary
    from molmo_ros.tools.points_eval.page import page
    from molmo_ros.tools.points_eval.protocols import DataSet

    data = DataSet(args.protocol, args.data, args.images, args.split)
    out = Path(args.out or f"points-{args.protocol}")
    precisions = list(dict.fromkeys([args.precision, *args.compare]))
    rows = {name: _answers(args, data, out, name) for name in precisions}
    runs = {name: summary(data, some) for name, some in rows.items()}
    result = {
        "protocol": data.name,
        "official": data.protocol.official,
        "data": args.data,
        "checkpoint": args.checkpoint,
        "runtime": args.runtime,
        "precisions": runs,
        "out": str(out),
    }
    (out / "report.json").write_text(json.dumps(to_plain(result), indent=1), encoding="utf-8")
    (out / "report.html").write_text(page(data, runs, rows), encoding="utf-8")
    return result


def _answers(args: argparse.Namespace, data: Any, out: Path, precision: str) -> list[dict[str, Any]]:
    from tqdm import tqdm

    from molmo_ros.tools.points_eval.evaluate import evaluate

    setting = argparse.Namespace(**{**vars(args), "precision": precision, "gripper": "franka_hand"})
    grounder = options.load_grounder(setting)
    total = min(len(data), args.limit or len(data))
    try:
        with tqdm(total=total, desc=precision, unit="example", file=sys.stderr, disable=None) as bar:
            return evaluate(
                grounder.model,
                data,
                out / f"answers-{precision}.jsonl",
                template=args.template,
                limit=args.limit,
                done=bar.update,
            )
    finally:
        grounder.close()


def text(result: dict[str, Any]) -> str:
    """Return the table, and where the page is."""
    from molmo_ros.tools.points_eval.evaluate import table

    note = "" if result["official"] else "There is no official score for this data set; this one is ours.\n"
    reasons = {r for run in result["precisions"].values() for r in run["skipped_reasons"]}
    skipped = "".join(f"skipped: {reason}\n" for reason in sorted(reasons)[:5])
    return f"{table(result['precisions'])}\n{note}{skipped}pictures of failures: {result['out']}/report.html"
