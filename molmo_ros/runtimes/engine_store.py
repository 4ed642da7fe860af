"""Engines on disk: a folder with compiled or exported graphs and the manifest that says what they fit.

The manifest is written last and replaced atomically, and every file's name holds a part of its hash: a reader
sees either the complete old engine or the complete new one, even when a build is killed half way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.errors import EngineError, EngineMismatchError
from molmo_ros.network.config import GRAPH_VERSION
from molmo_ros.untrusted import is_file, read_json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1
_SAMPLE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Manifest:
    """From what, for what and with what an engine was made.

    ``sm``: compute capability times ten, 0 for graphs that fit any device. ``profiles``: per part, the range
    of each free size as (least, best, most). ``attention``: per part, kernels that hold a whole attention,
    and attentions in the graph, over all profiles. ``files``: per part, name, bytes and sha256.
    """

    checkpoint: str
    checkpoint_hash: str
    precision: str
    quantisation: dict[str, Any]
    runtime: str
    runtime_version: str
    gpu: str
    sm: int
    system: str
    date: str
    graph_version: int
    graphs: dict[str, str]
    profiles: dict[str, list[dict[str, list[int]]]]
    kv: dict[str, Any]
    attention: dict[str, list[int]]
    files: dict[str, dict[str, Any]]
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        return sum(int(entry["bytes"]) for entry in self.files.values())


def engine_home() -> Path:
    """Where engines are stored and looked for: $MOLMO_ROS_ENGINES, else the user's data folder."""
    if home := os.environ.get("MOLMO_ROS_ENGINES"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "molmo_ros" / "engines"


def read_manifest(folder: Path) -> Manifest:
    """Raises: EngineError if there is no manifest that can be read."""
    path = folder / MANIFEST
    try:
        content = read_json(path)
        if content["format"] != FORMAT:
            raise EngineError(
                f"{path} has format {content['format']}, this version reads {FORMAT}; build it again."
            )
        manifest = Manifest(**content)
        _check_fields(manifest)
    except FileNotFoundError as error:
        raise EngineError(f"{folder} has no {MANIFEST}, so it holds no finished engine; build it.") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EngineError(f"{path} cannot be read ({error}); build the engine again.") from error
    return manifest


def _check_fields(manifest: Manifest) -> None:
    """Raises: ValueError, KeyError or TypeError for a field that does not match its declaration."""
    for name, declared in get_type_hints(Manifest).items():
        value = getattr(manifest, name)
        if not isinstance(value, get_origin(declared) or declared):
            raise ValueError(f"{name} is {value!r:.80}")
    _date(manifest)
    for entry in _entries(manifest):
        if Path(entry["name"]).name != entry["name"] or len(entry["name"]) > 255:
            raise ValueError(f"a file is named with a folder, or too long: {entry['name']!r:.80}")
        if not isinstance(entry["bytes"], int) or entry["bytes"] < 0 or not isinstance(entry["sha256"], str):
            raise ValueError(f"size or hash of {entry['name']} make no sense")


def _date(manifest: Manifest) -> datetime:
    """When it was built. Raises: ValueError if that is not a date."""
    date = datetime.fromisoformat(manifest.date)
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)


def check_trusted(folder: Path) -> None:
    """Engines of TensorRT are code: only this user and root may have written one.

    A folder that others own is refused; root only gets a warning, since in a container folders of the host
    are owned by others. Raises: EngineError naming folder or file, and the command that fixes it.
    """
    for path in (folder, folder / MANIFEST, *folder.glob("*.engine"), *folder.glob("*.jit")):
        stat = path.stat()
        if stat.st_mode & 0o002:
            raise EngineError(
                f"{path} may be written by everybody, and an engine is code that this process runs; "
                f"check where it comes from, then: chmod -R o-w {folder}"
            )
        if stat.st_uid not in (0, os.geteuid()):
            fact = f"{path} belongs to user {stat.st_uid}, and an engine is code that this process runs"
            if os.geteuid() != 0:
                raise EngineError(f"{fact}; check where it comes from, then: chown -R $USER {folder}")
            log.warning("%s as root", fact)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make an engine the current one; files of the previous one are removed."""
    handle, temporary = tempfile.mkstemp(prefix=f".{MANIFEST}.", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, folder / MANIFEST)
    keep = {MANIFEST, *(entry["name"] for entry in _entries(manifest))}
    for path in folder.iterdir():
        if path.is_file() and path.name not in keep and _is_ours(path.name):
            path.unlink()


def list_engines(home: Path | None = None) -> Iterator[tuple[Path, Manifest | EngineError]]:
    """All folders with a manifest below ``home``, and what it says or why it cannot be read."""
    for path in sorted((home or engine_home()).glob(f"*/{MANIFEST}")):
        try:
            yield path.parent, read_manifest(path.parent)
        except EngineError as error:
            yield path.parent, error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Every file complete and unchanged. Raises: EngineError naming the first that is not."""
    for part, entry in manifest.files.items():
        path = folder / entry["name"]
        fix = "build the engine again"
        if not is_file(path):
            raise EngineError(f"{path} ({part}) is missing; {fix}.")
        if (size := path.stat().st_size) != entry["bytes"]:
            raise EngineError(f"{path} has {size} bytes, its manifest says {entry['bytes']}; {fix}.")
        if (found := file_hash(path)) != entry["sha256"]:
            raise EngineError(
                f"{path} has sha256 {found[:12]}..., its manifest says {entry['sha256'][:12]}...; {fix}."
            )


def check_fits(
    manifest: Manifest,
    *,
    checkpoint: Checkpoint | None = None,
    precision: str = "auto",
    runtime: str | None = None,
    runtime_version: str | None = None,
    sm: int | None = None,
) -> None:
    """Compare with what is here; None and "auto" are not compared, the version of the graphs always is.

    Raises: EngineMismatchError with all differences and the command that rebuilds it.
    """
    wrong = []
    if runtime is not None and manifest.runtime != runtime:
        wrong.append(f"is for runtime {manifest.runtime}, not {runtime}")
    elif runtime_version is not None and manifest.runtime_version != runtime_version:
        wrong.append(
            f"was built with {manifest.runtime} {manifest.runtime_version}, here is {runtime_version}"
        )
    if sm is not None and manifest.sm not in (0, sm):
        wrong.append(f"is for SM{manifest.sm} ({manifest.gpu}), this GPU is SM{sm}")
    if manifest.graph_version != GRAPH_VERSION:
        wrong.append(f"has graphs of version {manifest.graph_version}, this molmo_ros runs {GRAPH_VERSION}")
    if precision not in ("auto", manifest.precision):
        wrong.append(f"has precision {manifest.precision}, not {precision}")
    if checkpoint is not None and manifest.checkpoint_hash != checkpoint_hash(checkpoint):
        wrong.append(f"was built from other weights (of {manifest.checkpoint})")
    if wrong:
        raise EngineMismatchError(
            f"The engine {', and '.join(wrong)}; build one that fits: "
            f"{build_command(manifest, checkpoint, precision, sm)}"
        )


def build_command(manifest: Manifest, checkpoint: Checkpoint | None, precision: str, sm: int | None) -> str:
    """The command that builds such an engine for this machine."""
    source = manifest.checkpoint if checkpoint is None else str(checkpoint.folder)
    held = manifest.precision if precision == "auto" else precision
    device = f" --sm {sm or manifest.sm}" if manifest.sm else ""
    options = f"--runtime {manifest.runtime} --precision {held}{device}"
    return f"molmo-ros engine build --checkpoint {source} {options}"


def find_engine(
    checkpoint: Checkpoint, precision: str, runtime: str, runtime_version: str, sm: int
) -> tuple[Path, Manifest]:
    """The newest engine in ``engine_home`` that fits.

    Raises: EngineMismatchError if there are some, but none that fits; EngineError if there is none at all.
    """
    fitting: list[tuple[datetime, Path, Manifest]] = []
    last: EngineError | None = None
    for folder, manifest in list_engines():
        if isinstance(manifest, EngineError):
            last = manifest
            continue
        try:
            check_fits(
                manifest, checkpoint=checkpoint, precision=precision, runtime=runtime,
                runtime_version=runtime_version, sm=sm,
            )  # fmt: skip
            check_trusted(folder)
        except EngineError as error:
            last = error
        else:
            fitting.append((_date(manifest), folder, manifest))
    if fitting:
        _, folder, found = max(fitting, key=lambda item: item[0])
        return folder, found
    if last is not None:
        raise last
    held = "" if precision == "auto" else f" --precision {precision}"
    raise EngineError(
        f"There is no engine in {engine_home()}; build one: "
        f"molmo-ros engine build --checkpoint {checkpoint.folder} --runtime {runtime}{held} --sm {sm}"
    )


def checkpoint_hash(checkpoint: Checkpoint) -> str:
    """Of the configuration files and, of each weights' file, its size and its first and last megabyte.

    Hashing all of a large checkpoint would take a minute at each start.
    """
    return _hash(checkpoint.folder, checkpoint.weight_files)


def source_hash(checkpoint: Checkpoint) -> str:
    """Of the checkpoint that a folder of quantised weights was made of; else as ``checkpoint_hash``."""
    return _hash(checkpoint.source, checkpoint.weights.files)


def _hash(folder: Path, files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        path = folder / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(size - _SAMPLE_BYTES, 0))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a whole file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _entries(manifest: Manifest) -> list[Mapping[str, Any]]:
    return list(manifest.files.values())


def _is_ours(name: str) -> bool:
    """Whether a build left this file behind; others in the folder are not touched."""
    return name.endswith((".engine", ".engine.part", ".jit", ".onnx", ".onnx.data")) or name.startswith(
        f".{MANIFEST}"
    )
