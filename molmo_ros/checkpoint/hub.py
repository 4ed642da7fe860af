"""Hub ids: the local cache of the hub's own tools, and downloads into it when they are allowed."""

from __future__ import annotations

import os
from pathlib import Path

from molmo_ros.checkpoint.rounded import QUANTISED
from molmo_ros.errors import CheckpointError
from molmo_ros.untrusted import is_file, read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_ALWAYS = ("config.json", "preprocessor_config.json", "tokenizer.json")


def find_in_hub(name: str, allow_download: bool) -> Path:
    """The folder of a hub id in the local cache, fetched first if that is allowed.

    Raises: CheckpointError if it is not there, or only a part of it.
    """
    cache = _cache()
    folder = _download(name, cache) if allow_download else _in_cache(name, cache)
    if missing := [file for file in _needed(folder) if not is_file(folder / file)]:
        some = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise CheckpointError(
            f'"{name}" is in the hub cache only in part, as after a download that was interrupted: {folder} '
            f"lacks {some}; fetch the rest: {_fetch(name)}."
        )
    return folder


def _cache() -> Path:
    """Where the hub's own tools keep their cache."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def _download(name: str, cache: Path) -> Path:
    """Fetch what the cache lacks of a hub id: weights as safetensors, and JSON; no code, no pickles."""
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, cache_dir=cache, allow_patterns=["*.json", "*.safetensors"]))
    except ImportError as error:
        message = f'"{name}" cannot be fetched ({error}): pip install huggingface_hub'
        raise CheckpointError(message) from error
    except Exception as error:  # network, names, rights, disk: many classes, each with a good message
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f'"{name}" cannot be fetched ({reason}); check name and network, or copy the folder here.'
        ) from error


def _in_cache(name: str, cache: Path) -> Path:
    folder = cache / ("models--" + name.replace("/", "--"))
    snapshots = folder / "snapshots"
    main = folder / "refs" / "main"
    if main.is_file() and (found := snapshots / main.read_text().strip()).is_dir():
        return found
    newest = sorted(snapshots.glob("*/config.json"), key=lambda p: p.stat().st_mtime)
    if newest:
        return newest[-1].parent
    raise CheckpointError(
        f'"{name}" is neither a folder nor in the hub cache {cache}; fetch it first: {_fetch(name)}.'
    )


def _fetch(name: str) -> str:
    return (
        f"hf download {name}, or molmo-ros info {name} --allow-download (of the node: allow_download:=true)"
    )


def _needed(folder: Path) -> list[str]:
    """Names of the files that every checkpoint has; their content is checked when they are read."""
    if not is_file(folder / INDEX):
        return [*_ALWAYS, *([] if is_file(folder / QUANTISED) else [SINGLE])]
    try:
        shards = read_json(folder / INDEX)["weight_map"].values()
        return [*_ALWAYS, *sorted({str(shard) for shard in shards})]
    except (ValueError, OSError, LookupError, TypeError, AttributeError):
        return list(_ALWAYS)
