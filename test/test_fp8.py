"""fp8 engines: weights in E4M3, activations in bf16."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from molmo_ros.checkpoint.checkpoint import load_checkpoint
from molmo_ros.errors import ParameterError
from molmo_ros.network.graph import Graph
from molmo_ros.network.precision import GPU_PRECISIONS, round_fp8
from molmo_ros.runtimes.export import DECODER, export
from molmo_ros.tools import build_engine
from molmo_ros.tools.compile_trt import compile_onnx

FP8 = GPU_PRECISIONS["fp8"]


def test_product() -> None:
    """As numpy multiplies it out; three bits of mantissa are within a sixteenth of the weight."""
    import onnxruntime

    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((24, 96), np.float32), rng.standard_normal((5, 96), np.float32)
    graph = Graph("product", precision=replace(FP8, activations=int(TensorProto.FLOAT)))
    graph.output(graph.linear(graph.input("x", TensorProto.FLOAT, ["T", 96]), "w", weight), "y", 1, ["T", 24])
    model = graph.model().SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    values, scales = round_fp8(weight)
    rounded = values.astype(np.float32) * scales
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ rounded, atol=1e-4)
    large = np.abs(weight) > np.abs(weight).max(axis=1, keepdims=True) / 100
    assert (np.abs(rounded.T - weight) / np.abs(weight))[large].max() <= 1 / 16
    assert np.abs(values.astype(np.float32)).max() == 448


def test_older_gpus_are_refused() -> None:
    assert build_engine.gpu_precision("fp8", 89) is FP8
    with pytest.raises(ParameterError, match="SM87 has no fp8, GPUs from SM89 on do; choose int8 or int4"):
        build_engine.gpu_precision("fp8", 87)


@pytest.mark.slow
@pytest.mark.parametrize("sm", [89, 120])
def test_it_compiles(sm: int, tmp_path: Path) -> None:
    """Strongly typed, ahead of time, without a GPU; weights stay one byte each in the plan."""
    pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13 to compile in tests")
    checkpoint = load_checkpoint("tiny")
    export(checkpoint, tmp_path / "graphs", FP8)
    source, plan = tmp_path / "graphs" / f"{DECODER}.onnx", tmp_path / "plan"
    sizes = build_engine.profiles(checkpoint, 512)[DECODER]
    found = compile_onnx("tensorrt_rtx", source, plan, sizes[:1], sm)
    assert found.attention_kernels == checkpoint.config.text.num_layers
    weights = onnx.load(str(source), load_external_data=False).graph.initializer
    kinds = [w.data_type for w in weights]
    assert kinds.count(TensorProto.FLOAT8E4M3FN) == 4 * checkpoint.config.text.num_layers
