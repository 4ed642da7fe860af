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
    """Return one line per fact, the network's parts indented."""
    facts = {k: v for k, v in result.items() if k != "config"}
    facts["file_bytes"] = f"{result['file_bytes'] / 1e6:.1f} MB"
    facts["parameters"] = f"{result['parameters'] / 1e6:.1f} M"
    facts["dtypes"] = ", ".join(result["dtypes"])
    lines = [f"{name:<12} {value}" for name, value in facts.items()]
    for name, part in result["config"].items():
        if isinstance(part, dict):
            lines += [name, *(f"  {key:<20} {value}" for key, value in part.items())]
        else:
            lines.append(f"{name:<12} {part}")
    return "\n".join(lines)
