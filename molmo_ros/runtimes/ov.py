"""OpenVINO on the CPU: the same graphs, several times faster where the processor multiplies in bf16 (AMX)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import AnyArray, Progress
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.network.precision import CPU_PRECISIONS, Precision
from molmo_ros.runtimes.graphs import IN_MEMORY_PARAMETERS, GraphRuntime, graph_source
from molmo_ros.runtimes.names import OPENVINO

# bf16 is the fp32 graph, which OpenVINO rounds while loading. Exact rows are for ONNX Runtime's kernel.
OV_PRECISIONS = {
    name: replace(CPU_PRECISIONS["fp32" if name == "bf16" else name], exact_rows=False) for name in OPENVINO
}


class OvRuntime(GraphRuntime):
    """See ``GraphRuntime``."""

    name = "openvino"

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: str = "auto",
        *,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Raises: RuntimeUnavailableError for a precision that OpenVINO or this processor does not have."""
        import openvino

        core = openvino.Core()
        self.precision = _choose(core, checkpoint, precision)
        held = OV_PRECISIONS[self.precision]
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32" if self.precision == "fp32" else "bf16",
            **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
        }
        super().__init__(
            checkpoint, lambda part: _Session(core, checkpoint, part, held, settings), progress=progress
        )


class _Session:
    """One compiled graph."""

    def __init__(
        self, core: Any, checkpoint: Checkpoint, part: str, precision: Precision, settings: dict[str, Any]
    ) -> None:
        source = graph_source(checkpoint, part, precision)
        model = core.read_model(source, b"") if isinstance(source, bytes) else core.read_model(str(source))
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        self._given: dict[str, AnyArray] = {}

    def run(self, outputs: list[str], inputs: dict[str, AnyArray]) -> Sequence[AnyArray]:
        import openvino

        for name, array in inputs.items():
            if self._given.get(name) is not array:  # views of the cache stay the same for many passes
                shared = array.flags.writeable  # OpenVINO takes no other memory
                self._request.set_tensor(name, openvino.Tensor(array, shared_memory=shared))
                self._given[name] = array
        self._request.start_async()
        self._request.wait()
        found = {name: self._request.get_tensor(name).data for name in outputs}
        return [data if name == "new_kv" else data.copy() for name, data in found.items()]

    def interrupt(self) -> None:
        self._request.cancel()


def _has_bf16(core: Any) -> bool:
    """Whether this processor multiplies bf16 matrices faster than fp32."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _choose(core: Any, checkpoint: Checkpoint, name: str) -> str:
    """ "auto" is fp32 for small models, else bf16 where the processor has it, else int8 weights."""
    if checkpoint.config.text.experts:
        raise RuntimeUnavailableError("OpenVINO cannot compile a mixture of experts; choose runtime onnx.")
    if name == "auto":
        if checkpoint.weights.parameters <= IN_MEMORY_PARAMETERS:
            return "fp32"
        return "bf16" if _has_bf16(core) else "int8"
    if name not in OV_PRECISIONS:
        raise RuntimeUnavailableError(
            f"OpenVINO has no {name} here; choose one of {', '.join(OV_PRECISIONS)}, or runtime onnx."
        )
    if name == "bf16" and not _has_bf16(core):
        raise RuntimeUnavailableError("This processor does not multiply in bf16; choose fp32, int8 or int4.")
    return name
