"""A checkpoint -> an engine folder: export, compile, manifest; or the exported graphs alone."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.checkpoint.preprocess import preprocess
from molmo_ros.datatypes import Progress
from molmo_ros.errors import EngineBuildError, EngineError, ParameterError
from molmo_ros.locking import only_writer
from molmo_ros.network.config import GRAPH_VERSION
from molmo_ros.network.graph import OPSET, ROUNDED_OPSET
from molmo_ros.network.precision import BLOCK, CPU_PRECISIONS, FP8_SM, GPU_PRECISIONS, Precision
from molmo_ros.runtimes.describe import graph_bytes, weight_bytes
from molmo_ros.runtimes.engine_store import (
    Manifest,
    check_files,
    check_fits,
    checkpoint_hash,
    engine_home,
    file_hash,
    read_manifest,
    write_manifest,
)
from molmo_ros.runtimes.export import DECODER, VISION, export, full_disk_told
from molmo_ros.tools.compile_trt import Profile, compile_onnx, compiler
from molmo_ros.tools.recipes import Recipe

BUCKET = 64  # the cache is bound in lengths that are multiples of this
DECODE_TOKENS = 16  # tokens that the decoding profile takes at once
PREFILL_TOKENS = 1408
_PROMPT_TOKENS = 48  # in addition to those of the image, for which the profiles are tuned
# Host memory per byte of a graph's weights while it is compiled, and on top of that. Measured: 12.2 GB
# for the 2.6 GB of a 4B decoder in int4, 14.5 GB for the 4.5 GB of a 7B one.
_MEMORY_PER_BYTE, _MEMORY_BASE = 4.3, 1e9


def gpu_precision(name: str, sm: int) -> Precision:
    """Raises: ParameterError for one that engines, or those for this ``sm``, do not have."""
    if name not in GPU_PRECISIONS:
        raise ParameterError(f"Engines have no precision {name}; choose one of {', '.join(GPU_PRECISIONS)}.")
    if name == "fp8" and sm < FP8_SM:
        raise ParameterError(f"SM{sm} has no fp8, GPUs from SM{FP8_SM} on do; choose int8 or int4.")
    return GPU_PRECISIONS[name]


def build_engine(
    checkpoint: Checkpoint,
    recipe: Recipe,
    folder: Path | None = None,
    progress: Progress | None = None,
    *,
    force: bool = False,
) -> tuple[Path, Manifest]:
    """Build an engine and put it into place; until then one that is already there stays as it is.

    ``force`` skips the check of free memory.
    Raises: RuntimeUnavailableError, EngineBuildError, EngineMismatchError, ParameterError.
    """
    trt = compiler(recipe.runtime)
    precision = gpu_precision(recipe.precision, recipe.sm)
    report = progress or (lambda stage, fraction: None)
    name = f"{checkpoint.folder.name}-{precision.name}-sm{recipe.sm}-{recipe.runtime}{trt.__version__}"
    folder = folder or engine_home() / name
    check_room(checkpoint, precision, folder, force)
    with only_writer(folder, lambda: report("waiting for another build of this engine", 0.0)) as waited:
        if waited and (built := _built(checkpoint, recipe, folder, trt.__version__)) is not None:
            report("ready", 1.0)
            return folder, built
        manifest = _build(checkpoint, recipe, precision, folder, trt.__version__, report)
    report("ready", 1.0)
    return folder, manifest


def _built(checkpoint: Checkpoint, recipe: Recipe, folder: Path, version: str) -> Manifest | None:
    """The engine that another process has built meanwhile, None if it is not the wanted one."""
    try:
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        check_fits(
            manifest, checkpoint=checkpoint, precision=recipe.precision, runtime=recipe.runtime,
            runtime_version=version, sm=recipe.sm,
        )  # fmt: skip
    except EngineError:
        return None
    return manifest if manifest.profiles == profiles(checkpoint, recipe.sequence) else None


def _build(
    checkpoint: Checkpoint, recipe: Recipe, precision: Precision, folder: Path, version: str, report: Progress
) -> Manifest:
    """Export, compile and put into place; nobody else writes into ``folder`` meanwhile."""
    sizes = profiles(checkpoint, recipe.sequence)
    folder.mkdir(parents=True, exist_ok=True)
    files, attention, graphs = {}, {}, {}
    with _staging(folder) as staging:
        report("exporting graphs", 0.0)
        export(checkpoint, staging / "graphs", precision, lambda s, f: report(f"exporting {s}", 0.1 * f))
        for i, part in enumerate((VISION, DECODER)):
            source = staging / "graphs" / f"{part}.onnx"
            graphs[part] = file_hash(source)
            plan = staging / f"{part}.engine"
            start, share = (0.1, 0.2) if part == VISION else (0.3, 0.65)
            compiled = compile_onnx(
                recipe.runtime, source, plan, sizes[part], recipe.sm,
                timing_cache=folder.parent / f"timing-{recipe.runtime}-sm{recipe.sm}.cache",
                progress=lambda s, f, p=part, a=start, b=share: report(f"compiling {p}", a + b * f),  # type: ignore[misc]
            )  # fmt: skip
            attention[part] = [compiled.attention_kernels, _attentions(checkpoint)[part] * len(sizes[part])]
            files[part] = _adopt(plan, folder, f"{part}.{precision.name}.sm{recipe.sm}", ".engine")
            shutil.rmtree(staging / "graphs") if i else None
        report("writing the manifest", 0.98)
        manifest = _manifest(checkpoint, precision, recipe, version, graphs, sizes, attention, files)
        write_manifest(folder, manifest)
    return manifest


# What an export that was killed before it wrote its manifest leaves behind; the next one replaces it.
REMAINS = {f"{part}.{kind}" for part in (VISION, DECODER) for kind in ("onnx", "data")}


def export_graphs(
    checkpoint: Checkpoint, precision_name: str, target: str, folder: Path, progress: Progress | None = None
) -> Manifest:
    """Write vision.onnx and decoder.onnx, their data and a manifest into ``folder``.

    ``target``: "gpu" or "cpu", which differ in what int8 and int4 mean.
    Raises: ParameterError for a precision that the target does not have, EngineBuildError without room.
    """
    known = GPU_PRECISIONS if target == "gpu" else CPU_PRECISIONS
    if precision_name not in known:
        raise ParameterError(
            f"A {target} has no precision {precision_name}; choose one of {', '.join(known)}."
        )
    precision = known[precision_name]
    if folder.exists() and not {path.name for path in folder.iterdir()} <= REMAINS:
        raise ParameterError(f"{folder} is not empty; give a new folder.")
    _check_disk(weight_bytes(checkpoint.config, precision), folder)
    export(checkpoint, folder, precision, progress)
    files: dict[str, dict[str, Any]] = {}
    for part in (VISION, DECODER):
        for name, key in ((f"{part}.onnx", part), (f"{part}.data", f"{part}.data")):
            path = folder / name
            files[key] = {"name": name, "bytes": path.stat().st_size, "sha256": file_hash(path)}
    graphs = {part: files[part]["sha256"] for part in (VISION, DECODER)}
    recipe = Recipe("any" if target == "gpu" else "none", "onnx", 0, precision_name)
    opset = str(ROUNDED_OPSET if precision.dequantises else OPSET)
    manifest = _manifest(checkpoint, precision, recipe, f"opset {opset}", graphs, {}, {}, files)
    write_manifest(folder, manifest)
    return manifest


def profiles(checkpoint: Checkpoint, sequence: int) -> dict[str, list[Profile]]:
    """The ranges of sizes for which kernels are chosen: an image of 640x480, and whatever else may occur."""
    image = checkpoint.image
    inputs = preprocess(np.zeros((480, 640, 3), np.uint8), image)
    crops, tokens = len(inputs.crops), len(inputs.pooling)
    one = -(-image.grid // image.pooling[0]) * -(-image.grid // image.pooling[1])  # of the whole, small
    most = 1 if image.max_crops == 0 else image.max_crops + 1
    room = min(sequence, checkpoint.config.text.max_positions) // BUCKET * BUCKET
    prefill = min(PREFILL_TOKENS, room)
    typical = min(tokens + _PROMPT_TOKENS, prefill)
    rows = [1, 1, DECODE_TOKENS]
    return {
        VISION: [{"C": [1, crops, most], "M": [min(one, tokens), tokens, max(one, min(one * most, room))]}],
        DECODER: [
            {"T": rows, "N": rows, "P": [BUCKET, min(1280, room), room]},
            {"T": [DECODE_TOKENS, typical, prefill], "N": rows, "P": [BUCKET, BUCKET, room]},
        ],
    }


def check_room(checkpoint: Checkpoint, precision: Precision, folder: Path, force: bool = False) -> None:
    """Raises: EngineBuildError if disk or memory does not suffice."""
    data = graph_bytes(checkpoint.config, precision)
    _check_disk(2 * sum(data.values()), folder)
    largest = max(data.values())
    need, free = _MEMORY_BASE + _MEMORY_PER_BYTE * largest, available_memory()
    if free is not None and free < need and not force:
        raise EngineBuildError(
            f"Compiling {largest / 1e9:.1f} GB of weights takes about {need / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free; close other programs, build on a larger machine with the same SM "
            "and TensorRT and copy the folder, or add swap, which is not counted, and try with --force."
        )


def available_memory() -> float | None:
    """Bytes that a program may take without swapping; None where the system does not report it."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def _check_disk(need: float, folder: Path) -> None:
    place = folder
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        raise ParameterError(f"{place} cannot be written to; give another folder.")
    if (free := shutil.disk_usage(place).free) < need:
        raise EngineBuildError(
            f"{place} has {free / 1e9:.1f} GB free, this takes {need / 1e9:.1f} GB; "
            "make room or give another folder."
        )


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder beside the finished files; what killed builds left there is removed first."""
    for old in folder.glob(".build-*"):
        shutil.rmtree(old, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".build-", dir=folder))
    try:
        with full_disk_told(folder):
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _adopt(path: Path, folder: Path, stem: str, suffix: str) -> dict[str, Any]:
    """Move a file to its place under a name with its hash; returns its manifest entry."""
    digest, size = file_hash(path), path.stat().st_size
    name = f"{stem}.{digest[:12]}{suffix}"
    os.replace(path, folder / name)
    return {"name": name, "bytes": size, "sha256": digest}


def _attentions(checkpoint: Checkpoint) -> dict[str, int]:
    """Attentions in each graph; the vision graph has one more, which pools patches."""
    config = checkpoint.config
    return {VISION: config.vision.num_layers + 1, DECODER: config.text.num_layers}


def _quantisation(checkpoint: Checkpoint, precision: Precision) -> dict[str, Any]:
    """How weights were rounded, and with what error, as far as it was measured."""
    facts = {"weights": precision.weights, "head": precision.head, "block": BLOCK}
    rounded = checkpoint.rounded
    if rounded is None or rounded.precision != precision.name:
        return {**facts, "method": "round to nearest, symmetric" if precision.weights else ""}
    errors = {name: entry["error"] for name, entry in rounded.matrices.items()}
    return {**facts, **rounded.facts, "errors": errors}


def _manifest(
    checkpoint: Checkpoint,
    precision: Precision,
    recipe: Recipe,
    version: str,
    graphs: dict[str, str],
    sizes: dict[str, list[Profile]],
    attention: dict[str, list[int]],
    files: dict[str, dict[str, Any]],
) -> Manifest:
    text = checkpoint.config.text
    capacity = sizes[DECODER][0]["P"][2] if sizes else recipe.sequence
    return Manifest(
        checkpoint=str(checkpoint.folder),
        checkpoint_hash=checkpoint_hash(checkpoint),
        precision=precision.name,
        quantisation=_quantisation(checkpoint, precision),
        runtime=recipe.runtime,
        runtime_version=version,
        gpu=recipe.gpu,
        sm=recipe.sm,
        system=f"{platform.system()} {platform.machine()}",
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        graph_version=GRAPH_VERSION,
        graphs=graphs,
        profiles=sizes,
        kv={
            "layout": [2 * text.num_layers, capacity, text.num_kv_heads, text.head_dim],
            "dtype": np.dtype(precision.dtype).name, "bucket": BUCKET,
        },
        attention=attention,
        files=files,
    )  # fmt: skip
