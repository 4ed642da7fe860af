"""int4 and int8 of runtime cuda: MatMulNBits over the host's memory, by ONNX Runtime's CPU provider."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from passes import run_logits
from tiny_molmo2 import write_checkpoint

from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.checkpoint.rounded import Matrix
from molmo_ros.network.fused import FusedGraph
from molmo_ros.network.graph import WeightSink
from molmo_ros.network.precision import CUDA_PRECISIONS, pack_int4, round_blocks, unpack_int4
from molmo_ros.runtimes.base import Runtime
from molmo_ros.runtimes.cuda_ort import cuda_precision, load_cuda
from molmo_ros.runtimes.export import DECODER, VISION, build_graph
from molmo_ros.runtimes.memory import HostMemory
from molmo_ros.runtimes.select import load_runtime

BITS = {"int4": 4, "int8": 8}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(write_checkpoint(tmp_path_factory.mktemp("cuda") / "ckpt")))


@pytest.mark.parametrize("kind", BITS)
def test_product(kind: str) -> None:
    """x times the rounded weight, as numpy multiplies it out."""
    import onnxruntime

    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((24, 96), np.float32), rng.standard_normal((1, 5, 96), np.float32)
    precision = replace(CUDA_PRECISIONS[kind], activations=int(TensorProto.FLOAT))
    graph = FusedGraph("product", precision=precision)
    y = graph.linear(graph.input("x", TensorProto.FLOAT, [1, "T", 96]), "w", weight)
    graph.output(y, "y", TensorProto.FLOAT, [1, "T", 24])
    model = graph.model().SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    values, scales = round_blocks(weight, BITS[kind], 32)
    expected = x @ (values * np.repeat(scales, 32, axis=0))
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-4)


def test_int4_is_unpacked_as_it_was_packed() -> None:
    values = np.random.default_rng(0).integers(-8, 8, (7, 5), np.int8)
    np.testing.assert_array_equal(unpack_int4(np.frombuffer(pack_int4(values), np.uint8), (7, 5)), values)


def logits(runtime: Runtime, checkpoint: Checkpoint) -> list[np.ndarray]:
    """Of a prefill and of a step after it."""
    embeds = np.random.default_rng(2).standard_normal((40, checkpoint.config.text.hidden_size), np.float32)
    cache = runtime.new_cache()
    found = [run_logits(runtime, embeds, np.arange(1, 41), cache, np.arange(30, 40))]
    return [*found, run_logits(runtime, embeds[:1], np.array([41]), cache, np.zeros(1, np.int64))]


@pytest.mark.parametrize("kind", BITS)
def test_as_onnx_rounds(kind: str, checkpoint: Checkpoint) -> None:
    """The same integers as runtime onnx has, but for the head, which stays as it is, and the rounding of
    activations within ONNX Runtime's kernel there."""
    runtime = load_cuda(checkpoint, kind, memory=HostMemory())
    assert runtime.precision == kind
    exact = logits(load_runtime(checkpoint, "onnx", "fp32", threads=1), checkpoint)
    rounded = logits(load_runtime(checkpoint, "onnx", kind, threads=1), checkpoint)
    for found, near, far in zip(logits(runtime, checkpoint), rounded, exact, strict=True):
        assert cosine(found, near) > (0.99 if kind == "int4" else 0.9999)
        assert 0.9 < cosine(found, far) < 1 - 1e-7


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def test_activations_are_those_of_the_gpu() -> None:
    for sm, kind in ((0, TensorProto.FLOAT), (75, TensorProto.FLOAT16), (87, TensorProto.BFLOAT16)):
        assert cuda_precision("int4", sm).activations == cuda_precision("auto", sm).activations == kind


@pytest.mark.parametrize("kind", BITS)
def test_every_matrix_of_the_text_model_is_rounded(kind: str, checkpoint: Checkpoint) -> None:
    """Queries, keys, values, their output, gate, up and down; not the head, and nothing of vision."""
    count = {}
    for part in (VISION, DECODER):
        model = onnx.load_from_string(build_graph(checkpoint, part, WeightSink(), CUDA_PRECISIONS[kind]))
        count[part] = sum(node.op_type == "MatMulNBits" for node in model.graph.node)
        assert "DequantizeLinear" not in {node.op_type for node in model.graph.node}
    assert count == {VISION: 0, DECODER: 7 * checkpoint.config.text.num_layers}


class Made:
    """A matrix "w.weight" (24,96) that was quantised beforehand, with one int8 scale for each output."""

    def __init__(self, kind: str) -> None:
        rng = np.random.default_rng(1)
        self._kind = kind
        self.values = rng.integers(-8, 8, (96, 24), np.int8)
        self.scales = rng.uniform(0.1, 1, (3, 24) if kind == "int4" else 24).astype(np.float32)

    def kind(self, name: str) -> str | None:
        return self._kind if name == "w.weight" else None

    def matrix(self, name: str) -> Matrix:
        packed = np.frombuffer(pack_int4(self.values), np.uint8) if self._kind == "int4" else self.values
        return Matrix(self._kind, packed, self.scales, (96, 24))


@pytest.mark.parametrize("kind", BITS)
def test_what_was_rounded_beforehand_is_kept(kind: str) -> None:
    """Also where a fused projection is cut into parts."""
    import onnxruntime

    made, x = Made(kind), np.random.default_rng(0).standard_normal((1, 5, 96), np.float32)
    precision = replace(CUDA_PRECISIONS["int4"], activations=int(TensorProto.FLOAT))
    graph = FusedGraph("product", precision=precision, rounded=made)
    given = graph.input("x", TensorProto.FLOAT, [1, "T", 96])
    for i, y in enumerate(graph.linear_parts(given, "w", np.zeros((24, 96), np.float32), (8, 12, 4))):
        graph.output(y, f"y{i}", TensorProto.FLOAT, [1, "T", None])
    model = graph.model().SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = np.concatenate(session.run(None, {"x": x}), axis=-1)
    each = np.repeat(made.scales, 32, axis=0) if kind == "int4" else made.scales
    np.testing.assert_allclose(found, x @ (made.values * each), atol=1e-3)
