"""Which runtime executes the network of a checkpoint here, and why that one."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.errors import EngineError, RuntimeUnavailableError
from molmo_ros.runtimes.base import Runtime
from molmo_ros.runtimes.engine_store import MANIFEST, engine_home
from molmo_ros.runtimes.names import CUDA, OPENVINO, RUNTIMES, TENSORRT

log = logging.getLogger(__name__)


def load_runtime(
    checkpoint: Checkpoint,
    name: str = "auto",
    precision: str = "auto",
    *,
    threads: int | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Runtime:
    """Load the network of a checkpoint; "auto" takes the best runtime that works here.

    ``precision``: one of names.PRECISIONS, or "auto": what the engine has, or what suits the CPU.
    ``threads``: CPU threads for one operator; None leaves the choice to the runtime.
    Raises: RuntimeUnavailableError with the command that installs what is missing.
    """
    if precision == "auto" and checkpoint.rounded is not None and name != "eager":
        precision = checkpoint.rounded.precision
    if name in TENSORRT:
        from molmo_ros.runtimes.trt import load_tensorrt

        return load_tensorrt(checkpoint, name, precision, progress=progress)
    if name == CUDA:
        from molmo_ros.runtimes.cuda_ort import load_cuda

        return load_cuda(checkpoint, precision, progress=progress)
    if name == "auto":
        runtime = _compiled(checkpoint, precision, progress) or _on_gpu(checkpoint, precision, progress)
        if runtime is not None:
            return runtime
        name, why = _for_cpu(checkpoint, precision)
        log.info("runtime auto is %s: no TensorRT engine fits, no GPU for cuda, and %s", name, why)
    if name == "openvino":
        _require("openvino", name, "pip install openvino")
        from molmo_ros.runtimes.ov import OvRuntime

        return OvRuntime(checkpoint, precision, threads=threads, progress=progress)
    if name == "onnx":
        _require("onnxruntime", name, "pip install onnxruntime")
        from molmo_ros.runtimes.ort import OrtRuntime

        return OrtRuntime(checkpoint, precision, threads=threads, progress=progress)
    if name == "eager":
        if precision not in ("auto", "fp32"):
            raise RuntimeUnavailableError(
                f'Runtime "eager" is the fp32 reference and has no {precision}; choose runtime "onnx" for it.'
            )
        for module in ("torch", "transformers"):
            _require(module, name, 'pip install ".[eager]" in the folder of molmo_ros')
        from molmo_ros.runtimes.eager import EagerRuntime

        return EagerRuntime(checkpoint, threads=threads, progress=progress)
    raise RuntimeUnavailableError(f'There is no runtime "{name}"; choose one of {", ".join(RUNTIMES)}.')


def _compiled(
    checkpoint: Checkpoint, precision: str, progress: Callable[[str, float], None] | None
) -> Runtime | None:
    """The runtime of an engine that fits this machine, if there is one; else the log says why not."""
    names = [name for name in TENSORRT if importlib.util.find_spec(name) is not None]
    if not names or not any(engine_home().glob(f"*/{MANIFEST}")):
        return None
    from molmo_ros.runtimes.trt import load_tensorrt

    for name in names:
        try:
            return load_tensorrt(checkpoint, name, precision, progress=progress)
        except (RuntimeUnavailableError, EngineError) as error:
            log.warning("not %s: %s", name, error)
    return None


def _on_gpu(
    checkpoint: Checkpoint, precision: str, progress: Callable[[str, float], None] | None
) -> Runtime | None:
    """Runtime cuda if ONNX Runtime has its provider, which its list of providers shows at once."""
    if not _has("onnxruntime"):
        return None
    import onnxruntime

    from molmo_ros.runtimes.cuda_ort import PROVIDER, load_cuda

    if PROVIDER not in onnxruntime.get_available_providers():
        return None
    try:
        runtime = load_cuda(checkpoint, precision, progress=progress)
    except RuntimeUnavailableError as error:
        log.warning("not cuda: %s", error)
        return None
    log.info("runtime auto is cuda: no TensorRT engine fits, and ONNX Runtime has the GPU")
    return runtime


def _for_cpu(checkpoint: Checkpoint, precision: str) -> tuple[str, str]:
    """The runtime, and why it was chosen. OpenVINO is faster, but ONNX Runtime has small models ready
    sooner."""
    from molmo_ros.runtimes.graphs import IN_MEMORY_PARAMETERS

    size = f"{checkpoint.weights.parameters / 1e6:.0f} M parameters"
    if checkpoint.weights.parameters <= IN_MEMORY_PARAMETERS:
        return "onnx", f"with {size} the model is small"
    if checkpoint.config.text.experts:
        return "onnx", "OpenVINO cannot compile a mixture of experts"
    if precision not in ("auto", *OPENVINO):
        return "onnx", f"OpenVINO has no {precision}"
    if not _has("openvino"):
        return "onnx", "OpenVINO, faster for large models, is not installed (pip install openvino)"
    return "openvino", f"it is the faster one on a CPU for {size}"


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _require(module: str, runtime: str, command: str) -> None:
    if not _has(module):
        raise RuntimeUnavailableError(
            f'Runtime "{runtime}" needs {module}, which is not installed: {command}'
        )
