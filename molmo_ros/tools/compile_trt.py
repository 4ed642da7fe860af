"""One ONNX file -> one TensorRT plan, by ``tensorrt`` or ``tensorrt_rtx``, which share their interface.

Uses what 10.3 to 11 have in common: strongly typed networks, explicit profiles, progress monitor.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmo_ros.datatypes import Progress
from molmo_ros.errors import EngineBuildError, EngineMismatchError, RuntimeUnavailableError

log = logging.getLogger(__name__)

INSTALL = {
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
    "tensorrt": "it comes with JetPack (sudo apt install nvidia-jetpack; a venv sees it with "
    "--system-site-packages); elsewhere pip install tensorrt",
}
_ATTENTION = re.compile(r"^Name: \S*_mha_\S*,", re.MULTILINE)

Profile = dict[str, list[int]]  # the name of a free size -> least, best, most


@dataclass(frozen=True)
class Compiled:
    """A plan's size in bytes, and how many of its kernels hold a whole attention, over all profiles."""

    bytes: int
    attention_kernels: int


def compiler(runtime: str) -> Any:
    """The module ``tensorrt`` or ``tensorrt_rtx``.

    Raises: RuntimeUnavailableError with the command that installs it.
    """
    try:
        return importlib.import_module(runtime)
    except ImportError as error:
        raise RuntimeUnavailableError(
            f'Runtime "{runtime}" is not installed ({error}): {INSTALL[runtime]}'
        ) from error


def compile_onnx(
    runtime: str,
    onnx_path: Path,
    plan_path: Path,
    profiles: list[Profile],
    sm: int,
    *,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compile for one compute capability; tensorrt_rtx needs no GPU for it, tensorrt needs exactly that GPU.

    Raises: EngineBuildError with the compiler's own words; EngineMismatchError for an SM it cannot build for.
    """
    trt = compiler(runtime)
    logger = _logger(trt)
    logger.clear()
    builder = trt.Builder(logger)
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly is None else 1 << int(strongly))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        raise EngineBuildError(f"{runtime} {trt.__version__} cannot parse {onnx_path.name}: {logger.why()}.")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _aim(trt, config, sm)
    for profile in profiles:
        config.add_optimization_profile(_profile(builder, network, onnx_path, profile))
    if progress is not None:
        config.progress_monitor = _monitor(trt, progress)
    # tensorrt_rtx chooses kernels on the device that runs them, so it measures nothing here.
    cache = _use_timing_cache(config, timing_cache) if runtime == "tensorrt" else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineBuildError(
            f"{runtime} {trt.__version__} did not build {onnx_path.name} for SM{sm}: {logger.why()}; "
            "if memory ran out, build on a larger machine with the same SM and TensorRT."
        )
    if cache is not None and timing_cache is not None:
        timing_cache.write_bytes(cache.serialize())
    with plan_path.open("wb") as file:
        file.write(plan)
    return Compiled(plan_path.stat().st_size, logger.attention_kernels)


def _aim(trt: Any, config: Any, sm: int) -> None:
    """Set the compute capability; only tensorrt_rtx can compile for one other than this machine's."""
    if hasattr(config, "set_compute_capability"):
        target = getattr(trt.ComputeCapability, f"SM{sm}", None)
        if target is None:
            known = ", ".join(n[2:] for n in trt.ComputeCapability.__members__ if n.startswith("SM"))
            raise EngineMismatchError(
                f"{trt.__name__} {trt.__version__} cannot compile for SM{sm}; it knows {known}. "
                "Use runtime tensorrt on the device itself."
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(target, 0)
        return
    from molmo_ros.runtimes.cuda import device

    here = device().sm
    if here != sm:
        raise EngineMismatchError(
            f"{trt.__name__} compiles only for the GPU of this machine, SM{here}, not for SM{sm}; "
            f"give --sm {here}, or build on the device."
        )


def _profile(builder: Any, network: Any, onnx_path: Path, sizes: Profile) -> Any:
    """Ranges of all inputs from those of the free sizes, whose names stand in the ONNX file."""
    import onnx

    model = onnx.load(str(onnx_path), load_external_data=False)
    profile = builder.create_optimization_profile()
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if any(d.dim_param for d in dims):
            shapes = [[sizes[d.dim_param][k] if d.dim_param else d.dim_value for d in dims] for k in range(3)]
            profile.set_shape(value.name, *shapes)
    return profile


def _use_timing_cache(config: Any, path: Path | None) -> Any:
    """Kernel timings of earlier builds."""
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    return cache if cache is not None and config.set_timing_cache(cache, False) else None


@functools.cache
def _logger(trt: Any) -> Any:
    """The compiler's one logger of this process; a second one would be ignored."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.clear()

        def clear(self) -> None:
            self.errors: list[str] = []
            self.attention_kernels = 0

        def why(self) -> str:
            return " ".join(" ".join(self.errors[:2]).split())[:600] or "it gave no reason"

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                log.info("%s: %s", trt.__name__, message)
            elif "_mha_" in message:
                self.attention_kernels += len(_ATTENTION.findall(message))

    return Logger()


def _monitor(trt: Any, progress: Progress) -> Any:
    """Share of the outermost phase; Ctrl-C ends the build at the next step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.go_on = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = max(num_steps, 1)

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                if phase_name in self.steps:
                    progress(phase_name, min((step + 1) / self.steps[phase_name], 1.0))
            except KeyboardInterrupt:  # must not propagate through the compiler's own code
                self.go_on = False
            return self.go_on

    return Monitor()
