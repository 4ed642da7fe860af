"""The graphs against transformers' own Molmo2, on random weights, in fp32."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from passes import run_logits
from tiny_molmo2 import OLMO, QWEN, QWEN_BIAS, write_checkpoint

from molmo_ros.answer.decoding import kv_limits
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.checkpoint.preprocess import ImageInputs, image_token_ids, preprocess
from molmo_ros.network.graph import OPSET, WeightSink
from molmo_ros.runtimes.base import Runtime
from molmo_ros.runtimes.export import DECODER, VISION, build_graph, cached_export, export
from molmo_ros.runtimes.select import load_runtime

STYLES = {"qwen": QWEN, "qwen-bias-mha": QWEN_BIAS, "olmo-yarn-postnorm": OLMO}


class Case:
    """One checkpoint with one image, its token ids, and both runtimes on demand."""

    def __init__(
        self, folder: Path, text: dict[str, Any], image_size: tuple[int, int], max_crops: int
    ) -> None:
        self.checkpoint: Checkpoint = load_checkpoint(
            str(write_checkpoint(folder, text, max_crops=max_crops))
        )
        image = np.random.default_rng(1).integers(0, 256, (*image_size, 3), dtype=np.uint8)
        self.inputs: ImageInputs = preprocess(image, self.checkpoint.image)
        encoder = self.checkpoint.encoder
        self.prefix = encoder.prefix(image_token_ids(self.inputs, encoder, self.checkpoint.image))
        self.ids = self.prefix + encoder.turn("Point to the red mug.")
        self.ours: Runtime = load_runtime(self.checkpoint, "onnx", threads=1)

    def embeds(self, runtime: Runtime) -> np.ndarray:
        embeds = runtime.embed(self.ids)
        at = np.array(self.ids) == self.checkpoint.encoder.im_patch
        embeds[at] += runtime.encode_image(self.inputs.crops, self.inputs.pooling)
        return embeds

    @property
    def limits(self) -> np.ndarray:
        return kv_limits(0, len(self.prefix), len(self.ids))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    root = tmp_path_factory.mktemp("network")
    return {name: Case(root / name, text, (60, 90), 4) for name, text in STYLES.items()}


@pytest.fixture(scope="module")
def references(cases: dict[str, Case]) -> dict[str, Any]:
    """transformers' models, loaded from the same released files; nothing missing, nothing left over."""
    pytest.importorskip("torch")
    molmo2 = pytest.importorskip("transformers.models.molmo2.modeling_molmo2")
    models = {}
    for name, case in cases.items():
        model, report = molmo2.Molmo2ForConditionalGeneration.from_pretrained(
            str(case.checkpoint.folder), output_loading_info=True, attn_implementation="eager"
        )
        assert not report["missing_keys"] and not report["unexpected_keys"]
        models[name] = model.eval()
    return models


def reference_inputs(case: Case) -> dict[str, Any]:
    """What transformers' processor would make of the same image and prompt."""
    import torch

    c = case.checkpoint.image
    g, p = c.grid, c.patch_size
    patches = case.inputs.crops.reshape(-1, g, p, g, p * 3).swapaxes(2, 3).reshape(-1, g * g, p * p * 3)
    ids = torch.tensor([case.ids])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.from_numpy(patches.astype(np.float32) / 127.5 - 1),
        "image_token_pooling": torch.from_numpy(case.inputs.pooling),
        "image_grids": torch.tensor([[*case.inputs.low_res, *case.inputs.high_res]]),
        "image_num_crops": torch.tensor([len(case.inputs.crops)]),
        "mm_token_type_ids": torch.isin(ids, torch.tensor(case.checkpoint.encoder.image_ids)).long(),
    }


@pytest.mark.parametrize("style", STYLES)
def test_vision_and_logits(style: str, cases: dict[str, Case], references: dict[str, Any]) -> None:
    import torch

    case, model = cases[style], references[style]
    assert (case.inputs.pooling < 0).any(), "the case must have padded pooling windows"
    inputs = reference_inputs(case)
    with torch.inference_mode():
        image = [inputs[k] for k in ("pixel_values", "image_token_pooling", "image_grids")]
        features = torch.cat(model.model.get_image_features(*image).pooler_output).numpy()
        logits = model(**inputs).logits[0].numpy()
    ours = case.ours.encode_image(case.inputs.crops, case.inputs.pooling)
    np.testing.assert_allclose(ours, features, atol=1e-5)
    rows = np.arange(len(case.ids))
    got = run_logits(case.ours, case.embeds(case.ours), case.limits, case.ours.new_cache(), rows)
    np.testing.assert_allclose(got, logits, atol=1e-5)


def greedy(runtime: Runtime, case: Case, steps: int) -> tuple[list[int], np.ndarray]:
    """Token ids of a cached decode without stop, and the logits of every step."""
    cache, zero = runtime.new_cache(), np.zeros(1, dtype=np.int64)
    last = np.array([len(case.ids) - 1])
    logits = [run_logits(runtime, case.embeds(runtime), case.limits, cache, last)[0]]
    ids: list[int] = []
    for _ in range(steps):
        ids.append(int(logits[-1].argmax()))
        logits.append(
            run_logits(runtime, runtime.embed(ids[-1:]), np.array([cache.length + 1]), cache, zero)[0]
        )
    return ids, np.array(logits[:-1])


@pytest.mark.parametrize("style", STYLES)
def test_64_greedy_tokens(style: str, cases: dict[str, Case], references: dict[str, Any]) -> None:
    import torch

    case, model = cases[style], references[style]
    with torch.inference_mode():
        out = model.generate(**reference_inputs(case), max_new_tokens=64, do_sample=False)
    ids, _ = greedy(case.ours, case, 64)
    assert ids == out[0, len(case.ids) :].tolist()


@pytest.mark.parametrize("style", STYLES)
def test_cached_decode_equals_recompute(style: str, cases: dict[str, Case]) -> None:
    case, runtime = cases[style], cases[style].ours
    ids, logits = greedy(runtime, case, 12)
    embeds = np.concatenate([case.embeds(runtime), runtime.embed(ids[:-1])])
    limits = kv_limits(0, len(case.prefix), len(embeds))
    rows = np.arange(len(case.ids) - 1, len(embeds))
    whole = run_logits(runtime, embeds, limits, runtime.new_cache(), rows)
    np.testing.assert_allclose(logits, whole, atol=1e-5)


def test_prefix_reuse(cases: dict[str, Case]) -> None:
    """Image first, question later; trimmed back for another question; another cache sees none of it."""
    case, runtime = cases["qwen"], cases["qwen"].ours
    embeds, split = case.embeds(runtime), len(case.prefix)
    last = np.array([len(embeds) - split - 1])
    want = run_logits(runtime, embeds, case.limits, runtime.new_cache(), np.array([len(embeds) - 1]))
    cache, untouched = runtime.new_cache(), runtime.new_cache()
    for new in (cache, untouched):
        runtime.run(embeds[:split], case.limits[:split], new, np.array([0]))
    other = runtime.embed(case.checkpoint.encoder.turn("How many bowls are there?"))
    runtime.run(other, kv_limits(split, split, len(other)), cache, np.array([0]))
    assert (cache.length, untouched.length) == (split + len(other), split)
    cache.trim(split)
    for reused in (cache, untouched):
        got = run_logits(runtime, embeds[split:], case.limits[split:], reused, last)
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_masked_slots_are_not_seen(cases: dict[str, Case]) -> None:
    """A past longer than past_len, as a runtime with fixed buckets binds it, changes nothing."""
    case = cases["qwen"]
    runtime: Any = case.ours
    cache = runtime.new_cache()
    runtime.run(case.embeds(runtime), case.limits, cache, np.array([0]))
    n, token = cache.length, runtime.embed([5])
    inputs = {
        "inputs_embeds": token[None], "position_ids": np.array([n]), "kv_limit": np.array([n + 1]),
        "logit_idx": np.array([0]), "past_len": np.array(n),
    }  # fmt: skip
    want = runtime.decoder.run(["logits"], {**inputs, **cache.past()})[0]
    padded = {k: np.concatenate([v, np.full_like(v[:, :7], 9.0)], axis=1) for k, v in cache.past().items()}
    np.testing.assert_allclose(runtime.decoder.run(["logits"], {**inputs, **padded})[0], want, atol=1e-6)


def test_eager_runtime_agrees(cases: dict[str, Case]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    case = cases["olmo-yarn-postnorm"]
    eager = load_runtime(case.checkpoint, "eager")
    (ids, logits), (ours, our_logits) = greedy(eager, case, 8), greedy(case.ours, case, 8)
    assert ids == ours
    np.testing.assert_allclose(our_logits, logits, atol=1e-5)
    cache = eager.new_cache()
    eager.run(case.embeds(eager), case.limits, cache, np.array([0]))
    assert cache.length == len(case.ids)
    cache.trim(3)
    assert cache.length == 3
    eager.close()


def test_low_resolution_only(tmp_path: Path) -> None:
    case = Case(tmp_path / "low", QWEN, (60, 90), 0)
    assert case.inputs.high_res == (0, 0) and len(case.inputs.crops) == 1
    logits = run_logits(case.ours, case.embeds(case.ours), case.limits, case.ours.new_cache(), np.array([0]))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("part", [VISION, DECODER])
def test_graphs_are_valid(part: str, cases: dict[str, Case]) -> None:
    for case in cases.values():
        model = onnx.load_from_string(build_graph(case.checkpoint, part, WeightSink()))
        onnx.checker.check_model(model, full_check=True)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)] and OPSET <= 20


def test_export_to_disk_runs_the_same(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases["qwen"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("molmo_ros.runtimes.graphs.IN_MEMORY_PARAMETERS", 0)
    monkeypatch.setattr("molmo_ros.runtimes.embedding._TABLE_IN_MEMORY", 0)
    from_disk = load_runtime(case.checkpoint, "onnx", threads=1)
    folder = cached_export(case.checkpoint)
    assert folder.is_relative_to(tmp_path) and (folder / "decoder.data").stat().st_size > 100_000
    assert (folder / "decoder.onnx").stat().st_size < 200_000
    assert greedy(from_disk, case, 4)[0] == greedy(case.ours, case, 4)[0]
    before = (folder / "decoder.onnx").stat().st_mtime_ns
    assert cached_export(case.checkpoint) == folder
    assert (folder / "decoder.onnx").stat().st_mtime_ns == before


def test_failed_export_leaves_nothing(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = cases["qwen"].checkpoint
    reads = itertools.count()

    def fail(self: Any, name: str, dtype: Any) -> np.ndarray:
        if next(reads) > 20:
            raise OSError("disk full")
        return np.zeros(checkpoint.weights.shapes[name], np.float32)

    monkeypatch.setattr(type(checkpoint.weights), "read", fail)
    with pytest.raises(OSError, match="disk full"):
        export(checkpoint, tmp_path / "graphs")
    assert list(tmp_path.iterdir()) == []
