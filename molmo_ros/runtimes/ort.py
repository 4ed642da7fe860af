"""ONNX Runtime on the CPU: works everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from molmo_ros.checkpoint.checkpoint import Checkpoint
from molmo_ros.datatypes import AnyArray, Progress
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.network.precision import CPU_PRECISIONS, Precision
from molmo_ros.runtimes.graphs import IN_MEMORY_PARAMETERS, GraphRuntime, graph_source
from molmo_ros.runtimes.names import PRECISIONS


class OrtRuntime(GraphRuntime):
    """See ``GraphRuntime``."""

    name = "onnx"

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: str = "auto",
        *,
        threads: int | None = None,
        progress: Progress | None = None,
        weights_only: bool = False,
    ) -> None:
        """``weights_only``: int8 and int4 compute as on a GPU, where neither activations nor the head are
        rounded. A token takes ten times as long: only for measuring accuracy."""
        held = cpu_precision(checkpoint, precision)
        self.precision = held.name
        if weights_only:
            held = replace(held, head="", exact_rows=False)

        def open_session(part: str) -> _Session:
            return _Session(_load(checkpoint, part, held, threads, weights_only))

        super().__init__(checkpoint, open_session, held.dtype, progress)


def cpu_precision(checkpoint: Checkpoint, name: str) -> Precision:
    """What a precision means here.

    "auto" is fp32, the reference, where that is cheap, and int8 weights above: measured on 0.2 G parameters
    they take half the time for a token and a quarter less for the prefill, at a logit cosine of 0.9998.
    "int8_dynamic" is faster still, but one scale for all tokens may fail on models with outliers.
    Raises: RuntimeUnavailableError for one that ONNX Runtime cannot run on a CPU.
    """
    if name == "auto":
        name = "fp32" if checkpoint.weights.parameters <= IN_MEMORY_PARAMETERS else "int8"
    if name in CPU_PRECISIONS:
        return CPU_PRECISIONS[name]
    names = ", ".join(CPU_PRECISIONS)
    if name in PRECISIONS:
        raise RuntimeUnavailableError(
            f"ONNX Runtime has no {name} on a CPU; choose one of {names}, or build a TensorRT engine."
        )
    raise RuntimeUnavailableError(f'There is no precision "{name}"; choose one of {names}.')


class _Session:
    """One graph, loaded."""

    def __init__(self, session: Any) -> None:
        import onnxruntime as ort

        self._session = session
        self._new_options = ort.RunOptions
        self._options = ort.RunOptions()

    def run(self, outputs: list[str], inputs: dict[str, AnyArray]) -> Sequence[AnyArray]:
        self._options = self._new_options()  # those of an interrupted run would end this one too
        found: Sequence[AnyArray] = self._session.run(outputs, inputs, self._options)
        return found

    def interrupt(self) -> None:
        self._options.terminate = True


def _load(
    checkpoint: Checkpoint, part: str, precision: Precision, threads: int | None, weights_only: bool
) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Threads that wait for each other spin on their cores no longer than a switch takes: longer would starve
    # a robot's other processes, and this one as well. Before 1.26 spinning can only be switched off
    # altogether.
    brief = tuple(int(n) for n in ort.__version__.split(".")[:2]) >= (1, 26)
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if brief else "0")
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if precision.weights == "dynamic":
        # without VNNI a processor saturates sums of two 8-bit products at 16 bits: the numbers would be wrong
        options.add_session_config_entry("session.x64quantprecision", "1")
    if weights_only:  # otherwise its kernel for rounded weights rounds activations to int8
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    source = graph_source(checkpoint, part, precision)
    model = source if isinstance(source, bytes) else str(source)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
