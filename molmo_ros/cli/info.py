"""``molmo-ros info``: what a checkpoint is, what it needs, and what can run it here; nothing is run."""

from __future__ import annotations

import argparse
from typing import Any

NAME = "info"
HELP = "show what a checkpoint is and needs, and which runtimes can serve it here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this sub-command."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, hub id in the local cache, or tiny")
    parser.add_argument(
        "--allow-download", action="store_true", help="fetch a hub id that is not in the cache (gigabytes)"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Open the checkpoint, check names and shapes of its tensors, and describe it."""
    from molmo_ros.checkpoint.checkpoint import load_checkpoint
    from molmo_ros.network.precision import FP16
    from molmo_ros.runtimes.describe import generation, kv_bytes_per_token, memory_bytes, runtimes_here

    checkpoint = load_checkpoint(args.checkpoint, allow_download=args.allow_download)
    config, weights = checkpoint.config, checkpoint.weights
    return {
        "checkpoint": args.checkpoint,
        "folder": checkpoint.folder,
        "generation": generation(config),
        "parameters": weights.parameters,
        "file_bytes": sum(path.stat().st_size for path in weights.files),
        "dtypes": sorted(set(weights.dtypes.values())),
        "max_crops": checkpoint.image.max_crops,
        "kv_bytes_per_token": kv_bytes_per_token(config, FP16),
        "memory_bytes": memory_bytes(config),
        "runtimes": runtimes_here(checkpoint),
        "config": config,
    }


def text(result: dict[str, Any]) -> str:
    """Return one line per fact, the network's parts indented."""
    facts = {k: v for k, v in result.items() if k not in ("config", "memory_bytes", "runtimes")}
    facts["file_bytes"] = f"{result['file_bytes'] / 1e6:.1f} MB"
    facts["parameters"] = f"{result['parameters'] / 1e6:.1f} M"
    facts["dtypes"] = ", ".join(result["dtypes"])
    facts["kv_bytes_per_token"] = f"{result['kv_bytes_per_token'] / 1024:.1f} KiB in 16 bits"
    lines = [f"{name:<18} {value}" for name, value in facts.items()]
    lines += [
        "memory, GB: weights and cache of one sequence of so many tokens",
        *_memory(result["memory_bytes"]),
    ]
    lines.append("runtimes here")
    lines += [
        f"  {name:<12} {'no: ' + reason if reason else 'yes'}" for name, reason in result["runtimes"].items()
    ]
    for name, part in result["config"].items():
        if isinstance(part, dict):
            lines += [name, *(f"  {key:<20} {value}" for key, value in part.items())]
        else:
            lines.append(f"{name:<18} {part}")
    return "\n".join(lines)


def _memory(table: dict[str, dict[str, int]]) -> list[str]:
    lengths = list(next(iter(table.values())))
    lines = ["  " + " " * 8 + "".join(f"{length:>9}" for length in lengths)]
    for name, row in table.items():
        lines.append(f"  {name:<8}" + "".join(f"{row[length] / 1e9:9.2f}" for length in lengths))
    return lines
