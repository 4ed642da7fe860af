"""What a checkpoint needs, and what can run it here, without running it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.errors import MolmoRosError, RuntimeUnavailableError
from molmo_ros.network.config import V1, V2, ModelConfig
from molmo_ros.network.precision import CPU_PRECISIONS, FP32, GPU_PRECISIONS, Precision, block_size
from molmo_ros.network.weights import BUILD_VIT, EXTRA_HEAD, HEAD, POINT_PREDICTOR, TEXT, network_shapes
from molmo_ros.runtimes.engine_store import find_engine
from molmo_ros.runtimes.export import DECODER, VISION

CONTEXTS = (1024, 2048, 4096)
# In addition to weights and cache: libraries, activations of one query.
_WORKING_BYTES = 1_000_000_000
_IN_VISION = ("model.vision_backbone.", BUILD_VIT, f"{POINT_PREDICTOR}subpatch_k.")


def generation(config: ModelConfig) -> str:
    """The name people know it by."""
    if config.model_type == V1:
        return "MolmoE" if config.text.experts else "Molmo v1"
    return "Molmo2" if config.model_type == V2 else "MolmoPoint"


def kv_bytes_per_token(config: ModelConfig, precision: Precision) -> int:
    """Keys and values of one token in all layers."""
    c = config.text
    return 2 * c.num_layers * c.num_kv_heads * c.head_dim * _item_bytes(precision)


def weight_bytes(config: ModelConfig, precision: Precision) -> int:
    """All weights except the embedding table, which stays on disk and is read by rows."""
    return round(sum(graph_bytes(config, precision).values()))


def graph_bytes(config: ModelConfig, precision: Precision) -> dict[str, float]:
    """``weight_bytes`` of each graph."""
    total = {VISION: 0.0, DECODER: 0.0}
    for name, shape in network_shapes(config).items():
        if not name.startswith(f"{TEXT}wte."):
            total[VISION if name.startswith(_IN_VISION) else DECODER] += _bytes(name, shape, precision)
    return total


def memory_bytes(config: ModelConfig) -> dict[str, dict[str, int]]:
    """Precision -> context length in tokens -> weights and cache together; one sequence.

    The numbers are those of a GPU; on a CPU, whose activations are fp32, int8 and int4 need somewhat more.
    """
    contexts = [c for c in CONTEXTS if c < config.text.max_positions] + [config.text.max_positions]
    table = {}
    for name, precision in GPU_PRECISIONS.items():
        weights, token = weight_bytes(config, precision), kv_bytes_per_token(config, precision)
        table[name] = {str(length): weights + length * token for length in contexts}
    return table


def runtimes_here(checkpoint: Checkpoint) -> dict[str, str]:
    """Every runtime, and "" or why it cannot serve this checkpoint on this machine."""
    return {
        "onnx": _on_cpu(checkpoint, "onnxruntime"),
        "openvino": _openvino(checkpoint),
        "cuda": _cuda(),
        "tensorrt": _tensorrt(checkpoint, "tensorrt"),
        "tensorrt_rtx": _tensorrt(checkpoint, "tensorrt_rtx"),
        "eager": _eager(checkpoint),
    }


def _item_bytes(precision: Precision) -> int:
    """One activation, or one weight that is not rounded."""
    return int(np.dtype(precision.dtype).itemsize)


def _bytes(name: str, shape: tuple[int, ...], precision: Precision) -> float:
    """As ``Graph.linear`` lays a tensor: matrices of the text model may be rounded."""
    count, plain = float(np.prod(shape)), _item_bytes(precision)
    if ".experts." in name and precision.rounds_experts:
        return count + count / shape[2] * plain  # (experts, out, in)
    if name.startswith((POINT_PREDICTOR, BUILD_VIT)) and not name.endswith("norm.weight"):
        return count * 4  # never rounded
    head = name in (HEAD, EXTRA_HEAD)
    matrix = name.startswith(f"{TEXT}blocks.") and len(shape) == 2 and not name.endswith("mlp.gate.weight")
    kind = precision.head if head else precision.weights if matrix else ""
    if not kind:
        return count * plain
    blocks = kind == "int4" or (kind == "int8" and precision.int8_blocks)
    scales = count / block_size(shape[1]) if blocks else shape[0]
    return count * (0.5 if kind == "int4" else 1) + scales * plain


def _on_cpu(checkpoint: Checkpoint, module: str) -> str:
    if lacking := _lacking(module):
        return lacking
    smallest = min((FP32, *CPU_PRECISIONS.values()), key=lambda p: weight_bytes(checkpoint.config, p))
    return _too_large(checkpoint.config, smallest)


def _openvino(checkpoint: Checkpoint) -> str:
    if checkpoint.config.text.experts:
        return "OpenVINO cannot compile a mixture of experts"
    return _on_cpu(checkpoint, "openvino")


def _eager(checkpoint: Checkpoint) -> str:
    if checkpoint.config.model_type != V2:
        return f"transformers has no {generation(checkpoint.config)}"
    return _lacking("torch", "transformers") or _too_large(checkpoint.config, FP32)


def _cuda() -> str:
    from molmo_ros.runtimes.cuda import device
    from molmo_ros.runtimes.cuda_ort import require_provider

    try:
        require_provider()
        device()
    except RuntimeUnavailableError as error:
        return str(error)
    return ""


def _tensorrt(checkpoint: Checkpoint, module: str) -> str:
    if lacking := _lacking(module):
        return lacking
    from molmo_ros.runtimes.cuda import device

    try:
        version = str(importlib.import_module(module).__version__)
        find_engine(checkpoint, "auto", module, version, device().sm)
    except (MolmoRosError, ImportError) as error:
        return str(error)
    return ""


def _lacking(*modules: str) -> str:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


def _too_large(config: ModelConfig, precision: Precision) -> str:
    need = weight_bytes(config, precision) + 2048 * kv_bytes_per_token(config, precision) + _WORKING_BYTES
    free = _free_bytes()
    if free is None or need <= free:
        return ""
    return f"needs {need / 1e9:.1f} GB in {precision.name}, {free / 1e9:.1f} GB of memory are free"


def _free_bytes() -> int | None:
    """Memory available to programs, where the system reports it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    facts: Mapping[str, str] = dict(line.split(":", 1) for line in lines)
    return int(facts["MemAvailable"].split()[0]) * 1024
