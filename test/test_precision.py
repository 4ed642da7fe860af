"""Rounding of weights, and what each precision does to the network's results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from passes import run_logits
from tiny_molmo2 import OLMO, QWEN, write_checkpoint

from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.datatypes import Float32
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.network.graph import Graph, WeightSink
from molmo_ros.network.precision import (
    BF16,
    CPU_PRECISIONS,
    FP16,
    GPU_PRECISIONS,
    block_size,
    pack_int4,
    round_blocks,
    round_outputs,
)
from molmo_ros.runtimes.base import Runtime
from molmo_ros.runtimes.export import DECODER, VISION, build_graph, export
from molmo_ros.runtimes.select import load_runtime

# What the ONNX parser of TensorRT 10.3 takes (its operators.md), as far as this network could want it.
TENSORRT_10_3 = {
    "Add", "ArgMax", "Cast", "Concat", "Cos", "DequantizeLinear", "Div", "Exp", "Expand", "Gather",
    "GatherElements", "Gemm", "Greater", "GreaterOrEqual", "Identity", "If", "LayerNormalization", "Less",
    "LessOrEqual", "LogSoftmax", "MatMul", "Max", "Min", "Mul", "Neg", "NonZero", "Pow", "Range",
    "Reciprocal", "ReduceMean",
    "ReduceSum", "Reshape", "Shape", "Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt",
    "Squeeze", "Sub", "Tanh", "TopK", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return load_checkpoint("tiny")


@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 8]))
@settings(max_examples=30, deadline=None)
def test_rounded_blocks_are_within_half_a_step(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((5, 64)).astype(np.float32) * rng.uniform(1e-3, 10)
    values, scale = round_blocks(weight, bits, 16)
    assert scale.shape == (4, 5)
    assert values.min() >= -(2 ** (bits - 1)) and values.max() <= 2 ** (bits - 1) - 1
    step = np.repeat(scale, 16, axis=0)
    assert np.all(np.abs(values * step - weight.T) <= 0.5001 * step)


def test_rounding_of_zeros_and_by_hand() -> None:
    values, scale = round_blocks(np.zeros((1, 16), np.float32), 4, 16)
    assert not values.any() and scale[0, 0] == 1
    weight = np.array([[-8.0, 3.4, 7.0, 0.2]], np.float32)
    values, scale = round_blocks(weight, 4, 4)
    assert scale[0, 0] == 1 and values.ravel().tolist() == [-8, 3, 7, 0]
    values, scale = round_outputs(np.array([[254.0, -127.0], [0.0, 0.0]], np.float32))
    assert scale.tolist() == [2, 1] and values.tolist() == [[127, 0], [-64, 0]]


def test_int4_is_packed_low_half_first() -> None:
    assert pack_int4(np.array([1, -1, 7], np.int8)) == bytes([0xF1, 0x07])


def test_block_sizes() -> None:
    assert [block_size(n) for n in (2560, 192, 96, 48)] == [128, 64, 32, 16]
    with pytest.raises(ValueError, match="no multiple of 16"):
        block_size(50)


@pytest.mark.parametrize("precision", GPU_PRECISIONS.values(), ids=list(GPU_PRECISIONS))
@pytest.mark.parametrize("part", [VISION, DECODER])
def test_tensorrt_10_3_knows_every_operator(tiny: Checkpoint, part: str, precision: object) -> None:
    model = onnx.load_from_string(build_graph(tiny, part, WeightSink(), precision))  # type: ignore[arg-type]
    kinds = {node.op_type for node in model.graph.node}
    assert kinds <= TENSORRT_10_3
    rounded = part == DECODER and precision.name in ("int4", "int8", "fp8")
    assert ("DequantizeLinear" in kinds) == rounded
    assert model.opset_import[0].version == (21 if rounded else 18)
    onnx.checker.check_model(model, full_check=True)


def test_sizes_on_disk(tiny: Checkpoint, tmp_path: Path) -> None:
    sizes = {}
    for name, precision in GPU_PRECISIONS.items():
        export(tiny, tmp_path / name, precision)
        sizes[name] = (tmp_path / name / "decoder.data").stat().st_size
    assert sizes["bf16"] == pytest.approx(sizes["fp32"] / 2, rel=0.02)
    assert sizes["int8"] < 0.6 * sizes["bf16"] and sizes["int4"] < 0.4 * sizes["bf16"]


def outputs(runtime: Runtime, checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image embeddings, logits of a prefill, and logits of a step after it."""
    rng = np.random.default_rng(0)
    vision = checkpoint.config.vision
    crops = rng.integers(0, 256, (1, vision.image_size, vision.image_size, 3), dtype=np.uint8)
    features = runtime.encode_image(crops, rng.integers(0, vision.grid**2, (20, 4)))
    embeds = runtime.embed(rng.integers(0, 300, 40).tolist())
    embeds[1:21] += features
    limits = np.arange(1, 41)
    limits[1:21] = 21
    cache = runtime.new_cache()
    prefill = run_logits(runtime, embeds, limits, cache, np.arange(30, 40))
    step = run_logits(runtime, embeds[:1], np.array([41]), cache, np.zeros(1, np.int64))
    runtime.close()
    return features, prefill, step


@pytest.mark.parametrize("text", [QWEN, OLMO], ids=["qwen", "olmo"])
def test_precisions_stay_near_fp32(text: dict[str, object], tmp_path: Path) -> None:
    """Random weights, the worst case; the cosine of logits from as good as 1 down to that of 4 bits."""
    checkpoint = load_checkpoint(str(write_checkpoint(tmp_path / "ckpt", text, max_crops=0)))
    expected = outputs(load_runtime(checkpoint, "onnx", "fp32"), checkpoint)
    least = {"fp16": 0.9999, "int8": 0.999, "int8_dynamic": 0.99, "int4": 0.93}
    for name, bound in least.items():
        runtime = load_runtime(checkpoint, "onnx", name)
        assert runtime.precision == name
        for a, b in zip(expected, outputs(runtime, checkpoint), strict=True):
            assert np.isfinite(b).all()
            assert (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b) > bound
            assert not np.array_equal(a, b) or name in ("int8", "int4")  # whose vision is fp32


def test_fp16_holds_what_overflows_in_fp32(tiny: Checkpoint) -> None:
    """The sum over the layers is fp32 in fp16 graphs, and that of the activations in bf16 graphs."""
    for precision, kind in ((FP16, onnx.TensorProto.FLOAT), (BF16, onnx.TensorProto.BFLOAT16)):
        model = onnx.load_from_string(build_graph(tiny, DECODER, WeightSink(), precision))
        model = onnx.shape_inference.infer_shapes(model)
        kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
        gathered = [node for node in model.graph.node if node.op_type == "Gather"][-1]
        assert kinds[gathered.input[0]] == kind


@pytest.mark.parametrize(("shape", "read"), [((1, 7, 64), 3), ((1, 5, 64), 5), ((4, 64), 6), ((1, 3, 64), 0)])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_rows_whose_logits_are_read_are_not_rounded(kind: str, shape: tuple[int, ...], read: int) -> None:
    """ONNX Runtime's kernel rounds activations to 8 bits; in the last rows nothing of that is left."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    x[..., 5] *= 50  # an outlier channel makes the steps of its block coarse
    x[..., -1, 32:] = 0
    weight = rng.standard_normal((48, 64)).astype(np.float32)
    bits, block = (8 if kind == "int8" else 4), 64
    values, scales = round_blocks(weight, bits, block)
    expected = x @ (values * np.repeat(scales, block, axis=0))
    rows = np.arange(read)
    found = {exact: _product(weight, kind, x, rows, exact) for exact in (False, True)}
    last = max(shape[-2] - read, 0)
    rounding, left = (np.abs(found[exact] - expected) for exact in (False, True))
    np.testing.assert_array_equal(found[True][..., :last, :], found[False][..., :last, :])
    assert rounding.max() > 1e-3 * np.abs(expected).max()
    if read:
        assert left[..., last:, :].max() < 0.02 * rounding[..., last:, :].max()


def _product(weight: Float32, kind: str, x: Float32, rows: np.ndarray, exact: bool) -> np.ndarray:
    graph = Graph("product", WeightSink(), replace(CPU_PRECISIONS[kind], exact_rows=exact))
    graph.input("x", TensorProto.FLOAT, ["A", "T", 64] if x.ndim == 3 else ["T", 64])
    graph.read_rows = graph.input("rows", TensorProto.INT64, ["N"])
    graph.output(graph.linear("x", "matrix", weight), "y", TensorProto.FLOAT, None)  # type: ignore[arg-type]
    graph.output(graph.op("Identity", "rows"), "same", TensorProto.INT64, ["N"])
    session = onnxruntime.InferenceSession(
        graph.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(["y"], {"x": x, "rows": rows})[0])


def test_refused_precisions(tiny: Checkpoint) -> None:
    with pytest.raises(
        RuntimeUnavailableError, match="ONNX Runtime has no bf16 on a CPU; choose one of fp32"
    ):
        load_runtime(tiny, "onnx", "bf16")
    with pytest.raises(RuntimeUnavailableError, match='There is no precision "fp7"'):
        load_runtime(tiny, "onnx", "fp7")
    with pytest.raises(RuntimeUnavailableError, match='"eager" is the fp32 reference and has no int4'):
        load_runtime(tiny, "eager", "int4")


def test_auto_is_fp32_for_a_small_model_and_int8_for_a_large_one(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from molmo_ros.runtimes import ort

    assert ort.cpu_precision(tiny, "auto") is CPU_PRECISIONS["fp32"]
    monkeypatch.setattr(ort, "IN_MEMORY_PARAMETERS", 1000)
    assert ort.cpu_precision(tiny, "auto") is CPU_PRECISIONS["int8"]


def test_all_runtimes_and_precisions_side_by_side() -> None:
    """On a scene: transformers and OpenVINO in fp32 give the same numbers, rounded ones nearly the same."""
    pytest.importorskip("open3d", reason="the scenes are simulated")
    pytest.importorskip("transformers", reason="the reference")
    from molmo_ros.tools.compare_precisions import compare_precisions

    rows = compare_precisions(scenes=1, seed=5)["precisions"]
    assert {"fp16", "int8", "int8_dynamic", "int4", "eager fp32"} <= rows.keys()
    for name, row in rows.items():
        if name.endswith(" fp32"):
            assert (row["same_answer"], row["px_shift_max"]) == (1, 0), name
            assert row["logit_error_max"] <= 1e-4, name
        else:
            assert row["logit_error_max"] > 0 and row["logit_cosine_min"] > 0.9, name
