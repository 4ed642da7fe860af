"""ONNX Runtime's CUDA provider: any NVIDIA GPU that it supports, without building an engine."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import Progress
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.network.decoder_in_place import MOST_POSITIONS
from molmo_ros.network.precision import CUDA_PRECISIONS, Precision
from molmo_ros.runtimes.cuda import device
from molmo_ros.runtimes.device import DeviceRuntime, Tensors, close_all
from molmo_ros.runtimes.device_slab import SlabLayout
from molmo_ros.runtimes.export import DECODER, VISION
from molmo_ros.runtimes.graphs import graph_source
from molmo_ros.runtimes.memory import DTYPES, DeviceMemory, Memory

log = logging.getLogger(__name__)

PROVIDER = "CUDAExecutionProvider"
CAPACITY = 2048  # tokens of image, prompt and answer
LENGTHS = (1, 4, 8, 16, 32, 64)  # of short passes, each captured as a CUDA graph
_SHAPES = {
    "Shape",
    "Squeeze",
    "Unsqueeze",
    "Concat",
    "Gather",
    "Slice",
    "Range",
    "Cast",
    "Constant",
    "Reshape",
    "LessOrEqual",
    "Mul",
    "Add",
}  # fmt: skip  (of these, ONNX Runtime leaves only sizes to the CPU, which the host knows anyway)
_TYPES = {"float32": 1, "uint8": 2, "int64": 7, "float16": 10, "bfloat16": 16}  # onnx.TensorProto's numbers


class OrtEngine:
    """One graph in a session of ONNX Runtime, bound by address."""

    in_place = True

    def __init__(self, source: Any, memory: Memory, *, capture: bool) -> None:
        """``source``: a graph or its file; ``capture``: as CUDA graphs where the same shapes recur."""
        import onnxruntime as ort

        self._new_options = ort.RunOptions
        self._options = ort.RunOptions()
        self._memory, self._capture = memory, capture and memory.device == "cuda"
        self._bindings: dict[tuple[Any, ...], tuple[int, Any]] = {}
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        model = source if isinstance(source, bytes) else str(source)
        self._session: Any = ort.InferenceSession(model, options, providers=self._providers())
        if memory.device == "cuda":
            _check_placement(self._session)

    def _providers(self) -> list[Any]:
        if self._memory.device != "cuda":
            return ["CPUExecutionProvider"]
        settings = {
            "device_id": "0", "user_compute_stream": str(self._memory.stream), "use_tf32": "0",
            "arena_extend_strategy": "kSameAsRequested", "enable_cuda_graph": str(int(self._capture)),
        }  # fmt: skip
        return [(PROVIDER, settings), "CPUExecutionProvider"]

    def run(self, inputs: Tensors, outputs: Tensors, *, again: bool) -> None:
        number, binding = self._binding(inputs, outputs, keep=again and self._capture)
        options = self._new_options()  # those of an interrupted run would abort this one too
        if number < 0:
            self._options = options  # a run must not be aborted during capture; and it is short
        if self._memory.device == "cuda":
            options.add_run_config_entry("gpu_graph_id", str(number))
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:
            self._bindings.clear()
            raise RuntimeUnavailableError(f"ONNX Runtime failed on {self._memory.device}: {error}") from error

    def _binding(self, inputs: Tensors, outputs: Tensors, keep: bool) -> tuple[int, Any]:
        """What is bound where, and the number of its CUDA graph, -1 for none."""
        key = (*inputs.values(), *outputs.values())
        if key in self._bindings:
            return self._bindings[key]
        binding, place = self._session.io_binding(), (self._memory.device, 0)
        for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, t in tensors.items():
                bind(name, *place, _TYPES[t.kind], t.shape, t.address)
        if not keep:
            return -1, binding
        self._bindings[key] = len(self._bindings) + 1, binding
        return self._bindings[key]

    def interrupt(self) -> None:
        self._options.terminate = True

    def close(self) -> None:
        self._bindings.clear()
        self._session = None


def load_cuda(
    checkpoint: Checkpoint,
    precision: str = "auto",
    *,
    progress: Progress | None = None,
    memory: Memory | None = None,
    capture: bool = True,
) -> DeviceRuntime:
    """The network on the first GPU, or in the host's ``memory``. "auto" is bf16 from SM80 on, else fp16.

    Raises: RuntimeUnavailableError with what is missing; whatever was taken until then is freed.
    """
    start = time.perf_counter()
    report = progress or (lambda stage, fraction: None)
    if memory is None:
        require_provider()
        held = cuda_precision(precision, device().sm)
        memory = DeviceMemory()
    else:
        held = cuda_precision(precision, 0)
    text = checkpoint.config.text
    parts: list[OrtEngine] = []
    try:
        for part, fraction in ((VISION, 0.1), (DECODER, 0.4)):
            report(f"loading {'text model' if part == DECODER else part}", fraction)
            # Vision kernels are large, launching them takes no time; a mixture of experts has control flow,
            # which cannot be captured.
            graphs = capture and part == DECODER and text.experts is None
            parts.append(_open(checkpoint, part, held, memory, graphs))
        layout = SlabLayout(
            2 * text.num_layers, min(CAPACITY, text.max_positions, MOST_POSITIONS), text.num_kv_heads,
            text.head_dim, next(kind for kind, dtype in DTYPES.items() if dtype is held.dtype),
            wide_bucket=256, lengths=LENGTHS, most_rows=LENGTHS[-1],
        )  # fmt: skip
        runtime = DeviceRuntime(
            checkpoint, memory, parts[0], parts[1], layout, name="cuda", precision=held.name
        )
        if memory.device == "cuda":
            report("warming up", 0.8)
            runtime.warm_up(checkpoint)
    except BaseException:
        close_all(*parts, memory)
        raise
    report("ready", 1.0)
    log.info("cuda, %s, ready in %.1f s", held.name, time.perf_counter() - start)
    return runtime


def _open(checkpoint: Checkpoint, part: str, held: Precision, memory: Memory, capture: bool) -> OrtEngine:
    """One graph; for versions and GPUs without the fused attention operator, attention is spelled out."""
    try:
        return OrtEngine(graph_source(checkpoint, part, held), memory, capture=capture)
    except Exception as error:
        if part == DECODER or "MultiHeadAttention" not in str(error):
            raise RuntimeUnavailableError(f"ONNX Runtime cannot load the {part} graph: {error}") from error
        log.warning("vision with attention spelled out, which is slower: %s", error)
        spelled = replace(held, whole_attention=False)
        return OrtEngine(graph_source(checkpoint, part, spelled), memory, capture=capture)


def cuda_precision(name: str, sm: int) -> Precision:
    """The precision of that name; activations are bf16 from SM80 on, else fp16, on the host (0) fp32.

    Raises: RuntimeUnavailableError for one that does not exist.
    """
    plain = "bf16" if sm >= 80 else "fp16" if sm else "fp32"
    name = plain if name == "auto" else name
    if name not in CUDA_PRECISIONS:
        names = ", ".join(CUDA_PRECISIONS)
        raise RuntimeUnavailableError(
            f"Runtime cuda has no {name}; choose one of {names}, or build a TensorRT engine."
        )
    held = CUDA_PRECISIONS[name]
    return replace(held, activations=CUDA_PRECISIONS[plain].activations) if held.weights else held


def require_provider() -> None:
    """Check that ONNX Runtime can use a GPU here, without loading a model.

    Raises: RuntimeUnavailableError with the command that installs it.
    """
    command = "pip install 'onnxruntime-gpu[cuda,cudnn]' (on a Jetson, NVIDIA's wheel of it)"
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise RuntimeUnavailableError(f"Runtime cuda needs ONNX Runtime: {command}") from error
    if PROVIDER not in ort.get_available_providers():
        raise RuntimeUnavailableError(
            f"The installed onnxruntime {ort.__version__} is the one for CPUs: pip uninstall onnxruntime; "
            f"{command}"
        )
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def _check_placement(session: Any) -> None:
    """Raises: RuntimeUnavailableError if anything but shapes is computed on the CPU."""
    if session.get_providers()[0] != PROVIDER:
        raise RuntimeUnavailableError(
            "ONNX Runtime could not load its CUDA provider; its log says which library is missing: "
            "pip install 'onnxruntime-gpu[cuda,cudnn]', and check the driver with nvidia-smi."
        )
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return
    strays = [
        f"{node.op_type} {node.name}"
        for graph in session.get_provider_graph_assignment_info()
        if graph.ep_name != PROVIDER
        for node in graph.get_nodes()
        if node.op_type not in _SHAPES
    ]
    if strays:
        raise RuntimeUnavailableError(
            f"{len(strays)} operators would compute on the CPU in every pass: {', '.join(strays[:8])}; "
            "take another onnxruntime-gpu, or another precision."
        )
