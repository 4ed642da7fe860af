"""What can be known of the TensorRT runtime without a GPU: what it calls exists and takes what it gives."""

from __future__ import annotations

import inspect
import re
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_molmo1
import tiny_molmo_point
from tiny_molmo2 import OLMO, write_checkpoint

from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.network.precision import GPU_PRECISIONS
from molmo_ros.runtimes import cuda, memory, trt
from molmo_ros.runtimes.export import DECODER, VISION, export
from molmo_ros.tools import build_engine, compile_trt
from molmo_ros.tools.compile_trt import compile_onnx

# Class of the module -> method -> how many arguments we give it.
CALLS = {
    "Runtime": {"deserialize_cuda_engine": 1},
    "ICudaEngine": {"create_execution_context": 1, "create_runtime_config": 0},
    "IRuntimeConfig": {"create_runtime_cache": 0, "set_runtime_cache": 1},
    "IRuntimeCache": {"serialize": 0, "deserialize": 1},
    "IExecutionContext": {
        "set_optimization_profile_async": 2, "set_input_shape": 2, "set_tensor_address": 2,
        "execute_async_v3": 1,
    },
    "Builder": {
        "create_network": 1, "create_builder_config": 0, "create_optimization_profile": 0,
        "build_serialized_network": 2,
    },
    "OnnxParser": {"parse_from_file": 1},
    "IBuilderConfig": {
        "add_optimization_profile": 1, "set_compute_capability": 2, "create_timing_cache": 1,
        "set_timing_cache": 2,
    },
    "IOptimizationProfile": {"set_shape": 4},
    "ITimingCache": {"serialize": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")


@pytest.fixture(scope="module")
def cudart() -> Any:
    return pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-python")


def test_methods_of_tensorrt(rtx: Any) -> None:
    source = inspect.getsource(trt) + inspect.getsource(compile_trt)
    for kind, methods in CALLS.items():
        for method, given in methods.items():
            assert f".{method}(" in source, f"{method} is not called any more"
            declared = getattr(getattr(rtx, kind), method).__doc__
            overloads = re.findall(rf"{method}\(self: ([^)]*)\)", declared)
            assert any(takes(overload, given) for overload in overloads), declared


def takes(declared: str, given: int) -> bool:
    """Whether this many arguments fit "Class, name: type, name: type = default ..."."""
    named = len(re.findall(r"\w: (?!\d)", declared))
    return named - declared.count(" = ") <= given <= named


def test_functions_of_cuda_python(cudart: Any) -> None:
    """Every name of CUDA's in our files is a function, or a member of an enumeration."""
    source = inspect.getsource(trt) + inspect.getsource(cuda) + inspect.getsource(memory)
    names = set(re.findall(r"\bcuda[A-Z]\w+", source))
    assert len(names) > 15
    kinds = (cudart.cudaMemcpyKind, cudart.cudaDeviceAttr, cudart.cudaStreamCaptureMode)
    members = {n for kind in kinds for n in kind.__members__}
    assert sorted(n for n in names if n not in members and not hasattr(cudart, n)) == []
    arguments = cudart.cudaMemcpy2DAsync.__doc__.split("\n")[0]
    order = ["dst", "dpitch", "src", "spitch", "width", "height", "kind", "stream"]
    assert [arguments.index(name) for name in order] == sorted(arguments.index(name) for name in order)


def test_cuda_without_a_gpu_is_told(cudart: Any) -> None:
    error, count = cudart.cudaGetDeviceCount()
    if int(error) == 0 and count:
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeUnavailableError, match=r"no NVIDIA GPU .*use runtime onnx"):
        cuda.device()
    with pytest.raises(
        RuntimeUnavailableError, match=r"cudaStreamCreateWithFlags failed with cudaError\w+; "
    ):
        memory.DeviceMemory()


Error = IntEnum("Error", {"cudaSuccess": 0, "cudaErrorInsufficientDriver": 35})  # of CUDA's, two


@pytest.mark.parametrize(("driver", "fix"), [(12060, r'"cuda-python<12\.7"'), (0, "install the driver")])
def test_a_driver_older_than_cuda_python(driver: int, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on JetPack 6, whose driver is for CUDA 12.6, with a cuda-python for CUDA 13."""
    ok, old = Error(0), Error(35)
    rt = SimpleNamespace(
        cudaGetDeviceCount=lambda: (old, None), cudaDriverGetVersion=lambda: (ok, driver),
        cudaRuntimeGetVersion=lambda: (ok, 13040),
    )  # fmt: skip
    monkeypatch.setattr(cuda, "cudart", lambda: rt)
    with pytest.raises(RuntimeUnavailableError, match=rf"InsufficientDriver\); .*{fix}"):
        cuda.device()


def test_a_driver_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuda-python 12.6 raises where later ones return an error."""

    def count() -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(cuda, "cudart", lambda: SimpleNamespace(cudaGetDeviceCount=count))
    with pytest.raises(RuntimeUnavailableError, match=r"libcuda\.so\.1\); use runtime onnx"):
        cuda.device()


GENERATIONS = {
    "molmo2 olmo": lambda path: write_checkpoint(path, OLMO),
    "v1 qwen": lambda path: tiny_molmo1.write_checkpoint(path),
    "molmoe": lambda path: tiny_molmo1.write_checkpoint(path, tiny_molmo1.MIXTURE),
    "molmo point": tiny_molmo_point.write_checkpoint,
}


@pytest.mark.slow
@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_compiles(rtx: Any, generation: str, tmp_path: Path) -> None:
    """int4 for SM87's sister SM86, both profiles; each attention becomes one kernel."""
    checkpoint = load_checkpoint(str(GENERATIONS[generation](tmp_path / "ckpt")))
    ranges, wanted = build_engine.profiles(checkpoint, 512), build_engine._attentions(checkpoint)
    export(checkpoint, tmp_path / "graphs", GPU_PRECISIONS["int4"])
    for part in (VISION, DECODER):
        plan = tmp_path / f"{part}.engine"
        found = compile_onnx("tensorrt_rtx", tmp_path / "graphs" / f"{part}.onnx", plan, ranges[part], 86)
        # A gathered expert may become such a kernel too.
        assert found.attention_kernels >= wanted[part] * len(ranges[part])


def test_inputs_lie_on_the_device(rtx: Any, tmp_path: Path) -> None:
    """None of them decides a shape by its value; such an input would have to lie on the host."""
    checkpoint = load_checkpoint("tiny")
    export(checkpoint, tmp_path / "graphs", GPU_PRECISIONS["bf16"])
    for part in (VISION, DECODER):
        network = parsed(rtx, tmp_path / "graphs" / f"{part}.onnx")
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        assert not [value.name for value in inputs if value.is_shape_tensor]
        assert {value.name for value in inputs} == set(input_names(checkpoint, part))
        for value in inputs:  # what is uploaded has the type that is expected
            cached = value.name.startswith(("past_key", "past_value"))
            others = {"crops": "UINT8", "inputs_embeds": "FLOAT"}
            assert value.dtype.name == ("BF16" if cached else others.get(value.name, "INT64")), value.name


def parsed(rtx: Any, path: Path) -> Any:
    """The network; builder and parser live on in it."""
    logger = compile_trt._logger(rtx)
    builder = rtx.Builder(logger)
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path))
    parsed.kept = (builder, parser)  # type: ignore[attr-defined]
    return network


def input_names(checkpoint: Checkpoint, part: str) -> list[str]:
    """Those that the runtime binds."""
    if part == VISION:
        return ["crops", "pooling"]
    past = [f"past_{kind}_{i}" for i in range(checkpoint.config.text.num_layers) for kind in ("key", "value")]
    return ["inputs_embeds", "position_ids", "kv_limit", "logit_idx", "past_len", *past]
