"""The few CUDA calls that a runtime needs, through ``cuda-python``, each with its error checked."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from molmo_ros.errors import RuntimeUnavailableError

_MODULES = ("cuda.bindings.runtime", "cuda.cudart")  # cuda-python since 12.6, and before


@dataclass(frozen=True)
class Device:
    """The first GPU; ``sm`` is its compute capability times ten."""

    name: str
    sm: int


def cudart() -> Any:
    """cuda-python's runtime module. Raises: RuntimeUnavailableError with the command that installs it."""
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise RuntimeUnavailableError(
        "TensorRT engines need cuda-python, which is not installed: pip install cuda-python "
        '(on JetPack 6: "cuda-python<12.7")'
    )


def call(function: Any, *arguments: Any) -> Any:
    """The result of a CUDA call. Raises: RuntimeUnavailableError with CUDA's own name for the error."""
    error, *results = function(*arguments)
    if int(error) != 0:
        fix = "free memory on the GPU" if "emory" in error.name else "check the driver with nvidia-smi"
        raise RuntimeUnavailableError(f"{function.__name__} failed with {error.name}; {fix}.")
    return results[0] if len(results) == 1 else tuple(results)


def device() -> Device:
    """Raises: RuntimeUnavailableError if there is no GPU that CUDA can use."""
    rt = cudart()
    problem = "There is no NVIDIA GPU that CUDA can use here"
    try:
        error, count = rt.cudaGetDeviceCount()
    except RuntimeError as fault:  # up to cuda-python 12.6, the first call loads the driver
        raise RuntimeUnavailableError(
            f"{problem} ({fault}); use runtime onnx, or install the driver."
        ) from fault
    if int(error) != 0 or count == 0:
        raise RuntimeUnavailableError(f"{problem} ({error.name}); {_fix(rt)}.")
    kinds = rt.cudaDeviceAttr
    major = call(rt.cudaDeviceGetAttribute, kinds.cudaDevAttrComputeCapabilityMajor, 0)
    minor = call(rt.cudaDeviceGetAttribute, kinds.cudaDevAttrComputeCapabilityMinor, 0)
    name = call(rt.cudaGetDeviceProperties, 0).name
    return Device(
        name.decode(errors="replace").strip("\0") if isinstance(name, bytes) else str(name),
        10 * major + minor,
    )


def _fix(rt: Any) -> str:
    """What makes CUDA find a GPU; the newest cuda-python is too new for the driver of JetPack 6."""
    driver, ours = (call(f) for f in (rt.cudaDriverGetVersion, rt.cudaRuntimeGetVersion))  # 12060 is 12.6
    if driver == 0 or ours // 1000 <= driver // 1000:
        return "use runtime onnx, or install the driver"
    major, minor = driver // 1000, driver % 1000 // 10
    return (
        f"the driver is for CUDA {major}.{minor}, cuda-python for {ours // 1000}: "
        f'pip install "cuda-python<{major}.{minor + 1}"'
    )
