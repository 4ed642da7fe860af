"""``molmo-ros info``: what a checkpoint is, without running it."""

from __future__ import annotations

import argparse
from typing import Any

NAME = "info"
HELP = "show what a checkpoint is, and whether it is complete"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, hub id in the local cache, or tiny")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Open the checkpoint, check names and shapes of its tensors, and describe it."""
    from molmo_ros.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(args.checkpoint)
    config, weights = checkpoint.config, checkpoint.weights
    return {
        "checkpoint": args.checkpoint,
        "folder": checkpoint.folder,
        "parameters": weights.parameters,
        "file_bytes": sum(path.stat().st_size for path in weights.files),
        "dtypes": sorted(set(weights.dtypes.values())),
        "config": config,
    }


def text(result: dict[str, Any]) -> str:
    """Return one line per fact."""
    return "\n".join(f"{name:<12} {value}" for name, value in result.items())
