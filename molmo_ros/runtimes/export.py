"""The two graphs of a checkpoint, in memory or on disk."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.checkpoint.rounded import RoundedWeights
from molmo_ros.datatypes import Progress
from molmo_ros.errors import CheckpointError, EngineBuildError
from molmo_ros.locking import only_writer
from molmo_ros.network.config import GRAPH_VERSION
from molmo_ros.network.decoder import build_decoder
from molmo_ros.network.decoder_in_place import build_decoder_in_place
from molmo_ros.network.fused import FusedGraph
from molmo_ros.network.graph import OPSET, Graph, WeightSink
from molmo_ros.network.precision import FP32, Precision
from molmo_ros.network.vision import build_vision
from molmo_ros.network.weights import HEAD
from molmo_ros.runtimes.engine_store import source_hash

log = logging.getLogger(__name__)

VISION = "vision"
DECODER = "decoder"

# Tensors with more elements keep their stored type until they are laid out or rounded, block by block.
LARGE = 1 << 20


class _Counter:
    """Counts how many of a checkpoint's tensors have been read."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._done, self._progress = total, 0, progress

    def __call__(self, name: str) -> None:
        self._done += 1
        self._progress(name, min(self._done / self._total, 1.0))


def build_graph(
    checkpoint: Checkpoint,
    part: str,
    sink: WeightSink,
    precision: Precision = FP32,
    on_read: Callable[[str], None] | None = None,
) -> bytes:
    """The serialised graph of one part; its weights go to ``sink``, and ``on_read`` is told their names."""
    rounded = _rounded(checkpoint, precision) if part == DECODER else None
    kind = FusedGraph if precision.fused else Graph
    graph = kind(part, sink, precision.of_vision() if part == VISION else precision, rounded)

    def read(name: str) -> npt.NDArray[Any]:
        if on_read is not None:
            on_read(name)
        if rounded is not None and name in rounded.folded:
            return rounded.tensor(name)
        cast = name == HEAD and not graph.precision.head  # the largest by far, and perhaps stored in fp32
        tensor = checkpoint.weights.read(name, graph.precision.dtype if cast else None)
        return tensor if tensor.size > LARGE else tensor.astype(np.float32, copy=False)

    if part == VISION:
        image = checkpoint.image
        window = image.pooling[0] * image.pooling[1]
        build_vision(graph, read, checkpoint.config, image.mean, image.std, window)
    elif isinstance(graph, FusedGraph):
        build_decoder_in_place(graph, read, checkpoint.config, checkpoint.encoder.asked)
    else:
        build_decoder(graph, read, checkpoint.config, checkpoint.encoder.asked)
    return bytes(graph.model().SerializeToString())


def _rounded(checkpoint: Checkpoint, precision: Precision) -> RoundedWeights | None:
    """The matrices that were quantised for this precision; others are read from the checkpoint.

    Raises: CheckpointError if that is no longer the one they were made of.
    """
    rounded = checkpoint.rounded
    if rounded is None:
        return None
    if rounded.precision != precision.name:
        made = rounded.folder, rounded.precision, precision.name, checkpoint.source
        log.info("%s was quantised for %s; %s takes the weights of %s", *made)
        return None
    if rounded.checkpoint_hash != source_hash(checkpoint):
        raise CheckpointError(f"{checkpoint.source} is not what {rounded.folder} was made of; quantise anew.")
    return rounded


def export(
    checkpoint: Checkpoint, folder: Path, precision: Precision = FP32, progress: Progress | None = None
) -> None:
    """Write vision.onnx and decoder.onnx with their data files into ``folder``, all or nothing.

    Memory stays near that of the largest tensor, since each is written before the next is read.
    Raises: EngineBuildError if the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    count = None if progress is None else _Counter(len(checkpoint.weights.shapes), progress)
    staging = Path(tempfile.mkdtemp(prefix=folder.name + ".", dir=folder.parent))
    try:
        with full_disk_told(folder):
            for part in (VISION, DECODER):
                sink = WeightSink(staging / f"{part}.data")
                try:
                    content = build_graph(checkpoint, part, sink, precision, count)
                finally:
                    sink.close()
                (staging / f"{part}.onnx").write_bytes(content)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


@contextmanager
def full_disk_told(folder: Path) -> Iterator[None]:
    """Raises: EngineBuildError where a write fails for lack of space; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise EngineBuildError(
            f"{folder} cannot be written ({error.strerror}); free some room on that disk, or choose another."
        ) from error


def cached_export(checkpoint: Checkpoint, precision: Precision = FP32) -> Path:
    """The folder of exported graphs in the user's cache; written if it is not there.

    Of several processes that want the same graphs at once, one writes, the others wait for it.
    """
    folder = _cache_dir() / "graphs" / f"{checkpoint.folder.name}-{_key(checkpoint, precision)}"
    if not (folder / f"{DECODER}.onnx").is_file():
        with only_writer(folder) as waited:
            for left in folder.parent.glob(f"{folder.name}.*"):  # left by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            if not (waited and (folder / f"{DECODER}.onnx").is_file()):
                export(checkpoint, folder, precision)
    return folder


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "molmo_ros"


def _key(checkpoint: Checkpoint, precision: Precision) -> str:
    """Changes with the weights' files, the configuration, and the code that builds the graphs."""
    files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in checkpoint.weight_files]
    facts = [
        GRAPH_VERSION, OPSET, repr(precision), files, repr(checkpoint.config), repr(checkpoint.image),
        repr(checkpoint.encoder.asked),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
