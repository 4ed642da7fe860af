"""Rounding with calibration: all generations, and what runtimes make of the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_molmo1
import tiny_molmo2
import tiny_molmo_point
from passes import run_logits

from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.checkpoint.rounded import QUANTISED, RoundedWeights
from molmo_ros.cli import main
from molmo_ros.errors import CheckpointError, EngineMismatchError, ParameterError
from molmo_ros.io import write_color
from molmo_ros.network.graph import Graph, WeightSink
from molmo_ros.network.precision import CPU_PRECISIONS, GPU_PRECISIONS, Precision, block_size, unpack_int4
from molmo_ros.network.weights import HEAD, text_block
from molmo_ros.quantise import run as whole
from molmo_ros.quantise.activations import load_samples, save_samples
from molmo_ros.quantise.awq import folds, scale_layer
from molmo_ros.quantise.blocks import OUT, Block
from molmo_ros.quantise.head import head_moments
from molmo_ros.quantise.keep import Cost, choose, matrix_bits
from molmo_ros.quantise.layer import Layer, matrices, second_moments
from molmo_ros.quantise.pictures import from_folder
from molmo_ros.quantise.rounding import (
    Grid,
    search_scales,
    to_nearest,
)
from molmo_ros.quantise.run import Plan, quantise
from molmo_ros.quantise.samples import Listener, Question, Sample, record, simulated
from molmo_ros.quantise.sensitivity import PROBES, GradientBlock, decision_gradients
from molmo_ros.quantise.store import head_file, read_layer, write_layer
from molmo_ros.runtimes.base import Runtime
from molmo_ros.runtimes.engine_store import check_fits, checkpoint_hash
from molmo_ros.runtimes.export import DECODER, build_graph, export
from molmo_ros.runtimes.ort import OrtRuntime
from molmo_ros.runtimes.select import load_runtime
from molmo_ros.tools.build_engine import export_graphs, profiles
from molmo_ros.tools.compile_trt import compile_onnx

CORPUS = "Point to the red mug."


TWO_LAYERS = {"num_hidden_layers": 2}  # what a layer loses, the next one sees; more layers only take time


def molmo2(text: dict[str, Any]) -> Callable[[Path], Path]:
    return lambda folder: tiny_molmo2.write_checkpoint(folder, {**text, **TWO_LAYERS}, max_crops=0)


GENERATIONS: dict[str, Callable[[Path], Path]] = {
    "qwen": molmo2(tiny_molmo2.QWEN),
    "qwen_bias": molmo2(tiny_molmo2.QWEN_BIAS),
    "olmo": molmo2(tiny_molmo2.OLMO),
    "v1": lambda folder: tiny_molmo1.write_checkpoint(
        folder, {**tiny_molmo1.OLMO, **TWO_LAYERS}, max_crops=1
    ),
    "mixture": lambda folder: tiny_molmo1.write_checkpoint(folder, tiny_molmo1.MIXTURE, max_crops=1),
    "point": lambda folder: tiny_molmo_point.write_checkpoint(folder, max_crops=1),
}
SAMPLES = 8


@pytest.fixture(scope="module", params=GENERATIONS)
def generation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A random checkpoint of each generation."""
    return load_checkpoint(str(GENERATIONS[request.param](tmp_path_factory.mktemp(request.param) / "ckpt")))


def pictures(count: int, seed: int) -> Iterator[Question]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), CORPUS


def sequences(checkpoint: Checkpoint, count: int, seed: int, most_tokens: int = 6) -> list[Sample]:
    runtime = load_runtime(checkpoint, "onnx", "fp32", threads=1)
    return list(record(checkpoint, runtime, pictures(count, seed), most_tokens))


def names_of_weights(checkpoint: Checkpoint, precision: Precision) -> set[str]:
    graph = onnx.load_from_string(build_graph(checkpoint, DECODER, WeightSink(), precision))
    return {tensor.name for tensor in graph.graph.initializer}


def rounded_tensors(held: Checkpoint, index: int) -> dict[str, np.ndarray]:
    """What a folder's matrices of a layer stand for, and what took a scale from them."""
    assert held.rounded is not None
    found = {n: held.rounded.tensor(n) for n in held.rounded.folded if n.startswith(text_block(index))}
    for name in matrices(held, index):
        matrix = held.rounded.matrix(name)
        outputs, width = matrix.shape
        if matrix.kind == "int4":
            values = unpack_int4(matrix.values, (width, outputs))
            found[name] = (values * np.repeat(matrix.scales, block_size(width), axis=0)).T
        else:
            found[name] = (matrix.values * matrix.scales).T
    return found


def logits(runtime: Runtime, samples: list[Sample]) -> np.ndarray:
    """Of all tokens but those of the image, whose logits nobody reads."""
    found = []
    for sample in samples:
        rows = np.arange(len(sample.limits) - 12, len(sample.limits))
        found.append(run_logits(runtime, sample.embeds, sample.limits, runtime.new_cache(), rows))
    return np.concatenate(found)


def test_scaled_weights_compute_the_same(generation: Checkpoint, tmp_path: Path) -> None:
    save_samples(sequences(generation, 2, 0), tmp_path, lambda done: None)
    states = load_samples(tmp_path)
    assert states is not None
    names = matrices(generation, 1)
    moments = second_moments(Block(generation, 1, {}, tuple(names)), states, names)
    text = generation.config.text
    scaled = scale_layer(text, 1, generation.weights.read, moments, lambda name, width: Grid(4, 16))
    assert {fold.matrix for fold in folds(text, 1)} <= scaled.keys()
    assert any(np.abs(scaled[n] / generation.weights.read(n) - 1).max() > 0.1 for n in names if n in scaled)
    for x, limits in zip(states, states.limits, strict=True):
        (before,), (after,) = (Block(generation, 1, w, (OUT,)).run(x, limits) for w in ({}, scaled))
        np.testing.assert_allclose(after, before, atol=2e-4 * np.abs(before).max())


def test_a_block_computes_what_the_decoder_does(generation: Checkpoint, tmp_path: Path) -> None:
    """All layers one by one, and the head in numpy: the logits of the whole graph."""
    samples = sequences(generation, 1, 0)
    x = samples[0].embeds
    for index in range(generation.config.text.num_layers):
        (x,) = Block(generation, index, {}, (OUT,)).run(x, samples[0].limits)
    c, read = generation.config.text, generation.weights.read
    normed = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + c.norm_eps)
    normed *= read("model.transformer.ln_f.weight")
    expected = logits(load_runtime(generation, "onnx", "fp32", threads=1), samples)
    found = normed[-12:] @ read("lm_head.weight").T
    np.testing.assert_allclose(found, expected[:, : found.shape[1]], atol=1e-3)


def test_gradients_are_slopes(generation: Checkpoint) -> None:
    """In a random direction, the change of a layer's result times a random gradient is what goes back."""
    if generation.config.text.experts is not None:
        pytest.skip("the choice of experts has no slope")
    sample = sequences(generation, 1, 0)[0]
    x, limits, names = sample.embeds, sample.limits, matrices(generation, 1)
    rng = np.random.default_rng(0)
    given, aside = (rng.standard_normal(x.shape).astype(np.float32) for _ in range(2))
    before, squares = GradientBlock(generation, 1, {}, tuple(names)).back(x, limits, given)
    step = 3e-3 * np.sqrt((x**2).mean())
    block = Block(generation, 1, {}, (OUT,))
    more, less = (block.run(x + sign * step * aside, limits)[0].astype(np.float64) for sign in (1, -1))
    slope = float(((more - less) * given).sum() / (2 * step))
    assert slope == pytest.approx(float((before * aside).sum()), abs=2e-3 * float(np.linalg.norm(before)))
    assert squares.shape == (len(x), len(names))
    last = (given**2).sum(axis=1)  # what the last matrix gives is added as it is
    if not generation.config.text.norm_after:
        np.testing.assert_allclose(squares[:, -1], last, rtol=1e-4)


def test_gradients_of_decisions() -> None:
    """A state moved along the gradient changes the distance of its two first logits by the slope."""
    rng = np.random.default_rng(0)
    x, norm = rng.standard_normal((3, 16)).astype(np.float32), rng.uniform(0.5, 2, 16).astype(np.float32)
    head = rng.standard_normal((9, 16)).astype(np.float32)
    read = np.array([False, True, True])

    def distance(state: np.ndarray) -> float:
        logits = np.sort(head @ (state / np.sqrt((state**2).mean()) * norm))
        return float(logits[-1] - logits[-2])

    found = decision_gradients(x, read, norm, head, 0.0, rng).reshape(3, PROBES, 16)
    assert not found[0].any()
    for t in (1, 2):
        near = 1 / np.sqrt(1 + distance(x[t]) ** 2)
        for gradient in found[t]:
            step = 1e-2 * gradient / np.linalg.norm(gradient)
            slope = (distance(x[t] + step) - distance(x[t] - step)) / 2e-2
            assert near * abs(slope) == pytest.approx(np.linalg.norm(gradient), rel=0.02)


def small(precision: str = "int4", method: str = "gptq", keep: float = 0.0) -> Plan:
    return Plan(precision, method, keep, samples=SAMPLES, data="noise", answer_tokens=4)


def error(folder: Path, checkpoint: Checkpoint, precision: str) -> float:
    """Of the logits on new images in fp32's, by that of the checkpoint rounded to nearest."""
    new = sequences(checkpoint, 4, 99)
    exact = logits(load_runtime(checkpoint, "onnx", "fp32", threads=1), new)
    nearest = logits(load_runtime(checkpoint, "onnx", precision, threads=1), new)
    runtime = load_runtime(load_checkpoint(str(folder)), "onnx", "auto", threads=1)
    assert runtime.precision == precision
    ours = logits(runtime, new)
    return float(np.linalg.norm(ours - exact) / np.linalg.norm(nearest - exact))


def test_every_generation_stays_nearer_than_rounded_to_nearest(
    generation: Checkpoint, tmp_path: Path
) -> None:
    """On new images. The files are as large, and the manifest says what was done."""
    quantise(generation, tmp_path / "q", small(), pictures(SAMPLES, 0))
    assert error(tmp_path / "q", generation, "int4") < 0.6
    held = load_checkpoint(str(tmp_path / "q"))
    assert held.rounded is not None
    facts = held.rounded.facts
    assert (facts["method"], facts["data"], facts["samples"]) == ("gptq", "noise", SAMPLES)
    for entry in held.rounded.matrices.values():
        assert entry["error"] < entry["error_nearest"]
    sizes = []
    for checkpoint in (generation, held):
        for target in (GPU_PRECISIONS, CPU_PRECISIONS):
            export(checkpoint, tmp_path / "graphs", target["int4"])
            sizes.append((tmp_path / "graphs" / "decoder.data").stat().st_size)
    assert sizes[:2] == sizes[2:]


def plant(checkpoint: Checkpoint, folder: Path, factor: float) -> Checkpoint:
    """The same model with three channels after each norm that are ``factor`` times as large."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(checkpoint.folder, folder)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if name.endswith(("attn_norm.weight", "ff_norm.weight")):
            tensor[[5, 21, 48]] *= factor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load_checkpoint(str(folder))


@pytest.mark.parametrize(("method", "most"), [("awq", 0.75), ("gptq", 0.5), ("awq+gptq", 0.5)])
def test_planted_outliers(tmp_path: Path, method: str, most: float) -> None:
    """Outlier channels, as in large language models: GPTQ has at most half the error of the logits.

    AWQ alone cannot: three of 64 channels are outliers here, and a finer step for them is a coarser one for
    all others of their block.
    """
    plain = load_checkpoint(str(GENERATIONS["qwen"](tmp_path / "plain")))
    checkpoint = plant(plain, tmp_path / "loud", 40)
    quantise(checkpoint, tmp_path / "q", small(method=method), pictures(SAMPLES, 0))
    assert error(tmp_path / "q", checkpoint, "int4") < most


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(GENERATIONS["qwen"](tmp_path_factory.mktemp("qwen") / "ckpt")))


@pytest.fixture(scope="module")
def quantised(qwen: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """int4 with the worst matrices in 8 bits, by both methods."""
    folder = tmp_path_factory.mktemp("kept") / "q"
    said: list[str] = []
    plan = small(method="awq+gptq", keep=5.8)
    quantise(qwen, folder, plan, pictures(SAMPLES, 0), say=said.append)
    assert f"{SAMPLES} samples" in said[0] and "min" in said[0] and "GB of memory" in said[0]
    return folder


def test_kept_matrices(qwen: Checkpoint, quantised: Path, tmp_path: Path) -> None:
    """Within the budget, the worst by measured error, and nearer than without, whatever rounds the others."""
    held = load_checkpoint(str(quantised)).rounded
    assert held is not None
    kinds = {name: str(entry["kind"]) for name, entry in held.matrices.items() if name != HEAD}
    assert set(kinds.values()) == {"int4", "int8"}
    assert 4.5 < held.facts["bits"] <= 5.8
    sensitivity = held.facts["sensitivity"]
    assert sensitivity.keys() == kinds.keys()
    kept = [name for name, kind in kinds.items() if kind == "int8"]
    assert max(sensitivity, key=sensitivity.get) in kept
    quantise(qwen, tmp_path / "q", small(method="rtn", keep=5.8), pictures(SAMPLES, 0))
    assert error(tmp_path / "q", qwen, "int4") < 0.9  # by that of all matrices in int4, rounded to nearest
    assert error(quantised, qwen, "int4") < error(tmp_path / "q", qwen, "int4")


def test_head_is_calibrated(qwen: Checkpoint, quantised: Path) -> None:
    """8 bits with a scale for each block, nearer than rounded to nearest; an engine keeps it as it is."""
    checkpoint = load_checkpoint(str(quantised))
    held = checkpoint.rounded
    assert held is not None
    head, entry = held.matrix(HEAD), held.matrices[HEAD]
    outputs, width = qwen.weights.read(HEAD).shape
    assert (head.kind, head.scales.size) == ("int8", width // block_size(width) * outputs)
    assert entry["error"] < 0.5 * entry["error_nearest"]
    assert "lm_head.weight.int8" not in names_of_weights(checkpoint, GPU_PRECISIONS["int4"])
    assert "lm_head.weight.int8" in names_of_weights(checkpoint, CPU_PRECISIONS["int4"])


def test_blocks_of_a_rounded_head(tmp_path: Path) -> None:
    """Three scales for each output: what was written is what a graph for a CPU multiplies by."""
    rng = np.random.default_rng(0)
    weight, x = (rng.standard_normal((n, 192)).astype(np.float32) for n in (40, 7))
    grid = Grid(8, block_size(192))
    rounded = to_nearest(weight, search_scales(weight, np.ones(192, np.float32), grid), grid)
    write_layer(head_file(tmp_path), Layer({HEAD: rounded}, errors={HEAD: (0, 0)}))
    facts = {**read_layer(head_file(tmp_path)).matrices[HEAD], "file": head_file(tmp_path).name}
    held = RoundedWeights(tmp_path, "int8", tmp_path, "", {}, {HEAD: facts}, {})
    graph = Graph("head", WeightSink(), CPU_PRECISIONS["int8"], held)
    graph.input("x", onnx.TensorProto.FLOAT, ["N", 192])
    graph.output(graph.linear("x", "lm_head", weight, head=True), "y", onnx.TensorProto.FLOAT, ["N", 40])
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(graph.model().SerializeToString(), options)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ rounded.weight.T, atol=1e-4)


def test_tokens_near_a_decision_count_for_the_head(qwen: Checkpoint, tmp_path: Path) -> None:
    """By hand: H is the sum of 1 / (1 + d^2) x x' over the tokens that are read."""
    save_samples(sequences(qwen, 2, 0), tmp_path, lambda done: None)
    states = load_samples(tmp_path)
    assert states is not None
    head, norm = qwen.weights.read(HEAD), qwen.weights.read("model.transformer.ln_f.weight")
    expected = 0
    for x, read in zip(states, states.read, strict=True):
        for one in x[read]:
            normed = one / np.sqrt((one**2).mean() + qwen.config.text.norm_eps) * norm
            second, first = np.sort(head @ normed)[-2:]
            expected = expected + np.outer(normed, normed) / (1 + (first - second) ** 2)
    found = head_moments(qwen, head, states, states)
    np.testing.assert_allclose(found.h, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(found.cross, found.h, rtol=1e-5)


def test_weights_only_rounds_no_activations(qwen: Checkpoint, quantised: Path) -> None:
    """The logits are those of fp32 with the rounded matrices put in its place; as it is, they are not."""
    held = load_checkpoint(str(quantised))
    assert held.rounded is not None
    new = sequences(qwen, 1, 99)
    x = new[0].embeds
    for index in range(qwen.config.text.num_layers):
        (x,) = Block(qwen, index, rounded_tensors(held, index), (OUT,)).run(x, new[0].limits)
    normed = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + qwen.config.text.norm_eps)
    normed *= qwen.weights.read("model.transformer.ln_f.weight")
    expected = normed[-12:] @ qwen.weights.read(HEAD).T
    alone, as_it_is = (
        logits(OrtRuntime(held, "int4", threads=1, weights_only=only), new)[:, : expected.shape[1]]
        for only in (True, False)
    )
    assert np.abs(alone - expected).max() < 1e-3 < np.abs(as_it_is - expected).max()


def test_int8_of_both_layouts(qwen: Checkpoint, tmp_path: Path) -> None:
    quantise(qwen, tmp_path / "q", small("int8"), pictures(SAMPLES, 0))
    assert error(tmp_path / "q", qwen, "int8") < 1


def test_openvino_and_onnx_agree(qwen: Checkpoint, quantised: Path) -> None:
    pytest.importorskip("openvino", reason="the other runtime on a CPU")
    held = load_checkpoint(str(quantised))
    new = sequences(qwen, 2, 99)
    exact, ours, theirs = (
        logits(load_runtime(one, name, precision, threads=1), new)
        for one, name, precision in (
            (qwen, "onnx", "fp32"),
            (held, "onnx", "int4"),
            (held, "openvino", "int4"),
        )
    )
    assert np.linalg.norm(theirs - ours) < 0.5 * np.linalg.norm(ours - exact)


def test_the_folder_is_a_checkpoint(qwen: Checkpoint, quantised: Path, tmp_path: Path) -> None:
    """Other precisions read the checkpoint that it was made of; an engine tells them apart."""
    held = load_checkpoint(str(quantised))
    assert checkpoint_hash(held) != checkpoint_hash(qwen)
    new = sequences(qwen, 1, 99)
    a, b = (logits(load_runtime(one, "onnx", "fp32", threads=1), new) for one in (qwen, held))
    assert np.array_equal(a, b)
    manifest = export_graphs(held, "int4", "gpu", tmp_path / "graphs")
    assert manifest.quantisation["method"] == "awq+gptq" and manifest.quantisation["samples"] == SAMPLES
    assert manifest.quantisation["errors"].keys() == held.rounded.matrices.keys()  # type: ignore[union-attr]
    check_fits(manifest, checkpoint=held)
    with pytest.raises(EngineMismatchError, match="other weights"):
        check_fits(manifest, checkpoint=qwen)
    with pytest.raises(ParameterError, match="is quantised already"):
        quantise(held, tmp_path / "again", small(), pictures(1, 0))


def test_damaged_folders(quantised: Path, tmp_path: Path) -> None:
    folder = tmp_path / "q"
    shutil.copytree(quantised, folder)
    content = json.loads((folder / QUANTISED).read_text())
    (folder / "layer-001.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"layer-001.safetensors is missing or damaged .*quantise anew"):
        load_runtime(load_checkpoint(str(folder)), "onnx")
    for change, words in (
        ({"format": 2}, "format 2"),
        ({"folded": {"x": "../secret"}}, "named with a folder"),
        ({"matrices": 1}, "cannot be read"),
    ):
        (folder / QUANTISED).write_text(json.dumps({**content, **change}))
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(str(folder))
    (folder / QUANTISED).write_text(json.dumps({**content, "checkpoint_hash": "other"}))
    with pytest.raises(CheckpointError, match=r"is not what .* was made of; quantise anew"):
        load_runtime(load_checkpoint(str(folder)), "onnx")
    (folder / QUANTISED).write_text(json.dumps({**content, "checkpoint": str(tmp_path / "gone")}))
    with pytest.raises(CheckpointError, match="gone"):
        load_checkpoint(str(folder))


def test_a_run_that_was_ended_goes_on(
    qwen: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the second layer: answers and first layer are not redone, and the result is the same."""
    folder, calls = tmp_path / "q", []
    quantise(qwen, tmp_path / "whole", small(), pictures(SAMPLES, 0))
    round_layer = whole.round_layer

    def ended(checkpoint: Checkpoint, index: int, *rest: Any) -> Any:
        calls.append(index)
        if calls == [0, 1]:
            raise KeyboardInterrupt
        return round_layer(checkpoint, index, *rest)

    monkeypatch.setattr(whole, "round_layer", ended)
    with pytest.raises(KeyboardInterrupt):
        quantise(qwen, folder, small(), pictures(SAMPLES, 0))
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):  # not a checkpoint yet
        load_checkpoint(str(folder))
    with pytest.raises(ParameterError, match="unfinished quantisation with other options"):
        quantise(qwen, folder, small(method="rtn"), pictures(SAMPLES, 0))
    quantise(qwen, folder, small(), iter(()))
    assert calls == [0, 1, 1] and not (folder / whole.WORK).exists()
    for path in (tmp_path / "whole").glob("layer-*"):
        assert path.read_bytes() == (folder / path.name).read_bytes()
    with pytest.raises(ParameterError, match="not empty"):
        quantise(qwen, folder, small(), pictures(SAMPLES, 0))


def test_budget_by_hand() -> None:
    """Two matrices of 128x128: 4.125 bits a weight, 8.125 in 8 bits; between lies one of the two."""
    assert matrix_bits((128, 128), "int4") == 128 * 128 * 4.125
    assert matrix_bits((128, 128), "int8") == 128 * 128 * 8.125
    costs = {"a": Cost((128, 128), 1e-4), "b": Cost((128, 128), 2e-4)}
    assert choose(costs, 6.124) == set()
    assert choose(costs, 6.125) == {"b"}
    assert choose(costs, 8.125) == {"a", "b"}
    assert choose({"a": costs["a"], "wide": Cost((1024, 128), 3e-4)}, 5.0) == {"a"}  # more for its bytes


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan("int3"), '"int3" cannot'),
        (Plan(method="best"), '"best" cannot .* rtn, awq, gptq'),
        (Plan(keep=3), "keep is 3 bits"),
        (Plan("int8", keep=5), "with int4"),
        (Plan(keep=4.2), r"int4 alone takes 4\.\d+ here; give more"),
    ],
)
def test_refused_plans(qwen: Checkpoint, tmp_path: Path, plan: Plan, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        quantise(qwen, tmp_path / "q", plan, pictures(1, 0))


def test_sequences_are_whole(qwen: Checkpoint) -> None:
    """Two questions about one image: the second one's sequence holds the image and itself, not the first."""
    listener = Listener(load_runtime(qwen, "onnx", "fp32", threads=1))
    rgb = next(pictures(1, 0))[0]
    questions = [(rgb, "Point to the bowl."), (rgb, CORPUS)]
    both = list(record(qwen, listener.inner, questions, 4))
    alone = list(record(qwen, listener.inner, questions[1:], 4))
    assert np.array_equal(both[1].limits, alone[0].limits) and np.array_equal(both[1].read, alone[0].read)
    np.testing.assert_allclose(both[1].embeds, alone[0].embeds, atol=1e-6)
    assert both[1].read.sum() == 4 and both[1].read[-4:].all()


def test_drafts_leave_no_trace(qwen: Checkpoint) -> None:
    """A sequence is what one pass a token would have heard; the fifth question is about the next scene."""
    runtime = load_runtime(qwen, "onnx", "fp32", threads=1)
    rgb, prompt = next(pictures(1, 0))
    listener = Listener(runtime)
    Molmo(qwen, listener).answer(rgb, prompt, drafts=False, max_new_tokens=5)  # type: ignore[arg-type]
    plain, drafted = listener.sequence(), next(record(qwen, runtime, [(rgb, prompt)], 5))
    assert np.array_equal(drafted.limits, plain.limits) and np.array_equal(drafted.read, plain.read)
    np.testing.assert_allclose(drafted.embeds, plain.embeds, atol=1e-6)
    images = [rgb for rgb, _ in simulated(6)]
    assert all(np.array_equal(images[0], one) for one in images[:5]) and (images[5] != images[0]).any()


def test_each_picture_meets_each_question(tmp_path: Path) -> None:
    """Two pictures and two questions: four samples are all four pairs."""
    for i in range(2):
        write_color(tmp_path / f"{i}.png", np.full((8, 8, 3), i, np.uint8))
    found = {(int(rgb[0, 0, 0]), prompt) for rgb, prompt in from_folder(tmp_path, ["the red mug"], 4)}
    assert len(found) == 4


def test_command_with_own_pictures(
    qwen: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for i, (rgb, _) in enumerate(pictures(2, 5)):
        write_color(folder / f"{i}.png", rgb)
    command = ["engine", "quantise", "--checkpoint", str(qwen.folder), "--images", str(folder)]
    command += ["--samples", "2", "--method", "rtn", "--out", str(tmp_path / "q"), "--json"]
    assert main(command) == 2 and "--query" in json.loads(capfd.readouterr().out)["error"]
    assert not (tmp_path / "q").exists()
    assert main([*command, "--query", "the red mug"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["data"] == str(folder) and result["samples"] == 2 and result["bits"] > 4.2
    assert load_checkpoint(str(tmp_path / "q")).rounded is not None


@pytest.mark.slow
def test_tensorrt_compiles_it_with_every_attention_in_one_kernel(quantised: Path, tmp_path: Path) -> None:
    """Mixed int4 and int8, for SM86."""
    pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13 to compile in tests")
    held = load_checkpoint(str(quantised))
    export(held, tmp_path / "graphs", GPU_PRECISIONS["int4"])
    source = tmp_path / "graphs" / f"{DECODER}.onnx"
    ranges = profiles(held, 512)[DECODER][:1]
    compiled = compile_onnx("tensorrt_rtx", source, tmp_path / "plan", ranges, 86)
    assert compiled.attention_kernels == held.config.text.num_layers
