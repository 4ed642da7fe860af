"""Molmo v1 against numbers that its own code produced (``golden/README.md``), on random weights, in fp32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_molmo2
from passes import run_logits
from tiny_molmo1 import MIXTURE, OLMO, QWEN2, write_checkpoint

from molmo_ros.answer.decoding import kv_limits
from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import load_checkpoint
from molmo_ros.checkpoint.preprocess import ImageConfig, image_token_ids, preprocess
from molmo_ros.errors import CheckpointError
from molmo_ros.runtimes.base import Runtime
from molmo_ros.runtimes.select import load_runtime

GOLDEN = Path(__file__).parent / "golden"
STYLES = {"qwen2": QWEN2, "olmo": OLMO}
SIZES = sorted({name.split(".")[0] for name in np.load(GOLDEN / "molmo1_images.npz").files})


class Vocabulary:
    im_start, im_end, im_patch, im_col, low_res_im_start, im_low = 101, 102, 103, 104, 101, 103


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return {**np.load(GOLDEN / "molmo1.npz"), **np.load(GOLDEN / "molmo1_images.npz")}


class Case:
    def __init__(self, folder: Path, fields: dict[str, Any]) -> None:
        self.folder = write_checkpoint(folder, fields)
        self.checkpoint = load_checkpoint(str(self.folder))
        image = np.random.default_rng(1).integers(0, 256, (30, 100, 3), dtype=np.uint8)
        self.inputs = preprocess(image, self.checkpoint.image)
        encoder = self.checkpoint.encoder
        self.ids = encoder.prefix(image_token_ids(self.inputs, encoder, self.checkpoint.image))
        self.ids += encoder.turn("Point to the red mug.")
        self.runtime: Runtime = load_runtime(self.checkpoint, "onnx", threads=1)
        self.features = self.runtime.encode_image(self.inputs.crops, self.inputs.pooling, self.inputs.padding)
        self.embeds = self.runtime.embed(self.ids)
        self.embeds[np.array(self.ids) == encoder.im_patch] += self.features

    def run(self) -> tuple[np.ndarray, Any]:
        cache, count = self.runtime.new_cache(), len(self.ids)
        return run_logits(self.runtime, self.embeds, kv_limits(0, 0, count), cache, np.arange(count)), cache


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    root = tmp_path_factory.mktemp("molmo1")
    return {name: Case(root / name, fields) for name, fields in STYLES.items()}


@pytest.mark.parametrize("style", STYLES)
def test_ids_features_and_logits(style: str, cases: dict[str, Case], golden: dict[str, Any]) -> None:
    case = cases[style]
    assert case.ids == golden["input_tokens"].tolist()
    assert set(np.unique(case.inputs.padding)) == {0, 1, 2}, "the case must have every kind of padding"
    np.testing.assert_allclose(case.features[::5], golden[f"{style}.features"], atol=1e-5)
    logits, _ = case.run()
    rows = [0, 1, 20, 60, -10, -3, -2, -1]
    np.testing.assert_allclose(logits[rows], golden[f"{style}.logits"], atol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_greedy_tokens(style: str, cases: dict[str, Case], golden: dict[str, Any]) -> None:
    """64 steps with the cache: the same tokens as upstream's, and the same logits in the last step."""
    case = cases[style]
    logits, cache = case.run()
    step, tokens = logits[-1], []
    for _ in range(64):
        tokens.append(int(step.argmax()))
        limit = np.array([cache.length + 1])
        step = run_logits(case.runtime, case.runtime.embed(tokens[-1:]), limit, cache, np.zeros(1, np.int64))[
            0
        ]
    assert tokens == golden[f"{style}.tokens"].tolist()
    np.testing.assert_allclose(step, golden[f"{style}.last_step"], atol=2e-5)


@pytest.mark.parametrize("style", STYLES)
def test_padding_matters(style: str, cases: dict[str, Case]) -> None:
    inputs, runtime = cases[style].inputs, cases[style].runtime
    assert inputs.padding is not None
    plain = runtime.encode_image(inputs.crops, inputs.pooling, np.zeros_like(inputs.padding))
    assert np.abs(plain - cases[style].features).max() > 0.01


def test_an_answer(cases: dict[str, Case]) -> None:
    """The whole way: a random model says nothing sensible, but says something about any image."""
    model = Molmo.load(str(cases["qwen2"].folder), "onnx", threads=1)
    answer = model.answer(np.zeros((40, 70, 3), np.uint8), "Point to the red mug.", max_new_tokens=5)
    assert 1 <= len(answer.token_ids) <= 5 and answer.points == ()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("fields", [QWEN2, MIXTURE], ids=["dense", "mixture"])
def test_precisions(fields: dict[str, Any], precision: str, tmp_path: Path) -> None:
    """Close to fp32, both for many tokens and for one."""
    checkpoint = load_checkpoint(str(write_checkpoint(tmp_path / "c", fields)))
    image = preprocess(np.random.default_rng(1).integers(0, 256, (30, 100, 3), np.uint8), checkpoint.image)
    results = []
    for held in ("fp32", precision):
        runtime = load_runtime(checkpoint, "onnx", held, threads=1)
        cache, embeds = runtime.new_cache(), runtime.embed(list(range(20)))
        prefill = run_logits(runtime, embeds, kv_limits(0, 0, 20), cache, np.arange(20))
        step = run_logits(runtime, embeds[:1], np.array([21]), cache, np.array([0]))
        features = runtime.encode_image(image.crops, image.pooling, image.padding)
        results.append([features, prefill, step])
    for ours, exact in zip(results[1], results[0], strict=True):
        cosine = (ours * exact).sum() / np.linalg.norm(ours) / np.linalg.norm(exact)
        assert (cosine > 0.999 and not np.array_equal(ours, exact)) or np.allclose(ours, exact, atol=1e-6)


def test_a_tokenizer_of_another_generation(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", QWEN2)
    tiny_molmo2.tokenizer(300).save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has <low_res_im_start>, so it is of another"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 1), (30, 40, 4)], ids=["grey", "grey-1", "rgba"])
def test_other_images(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rgb = image[..., :3] if shape[-1] == 4 else np.repeat(image.reshape(30, 40, 1), 3, axis=2)
    config = ImageConfig.parse(RELEASED)
    np.testing.assert_array_equal(preprocess(image, config).crops, preprocess(rgb, config).crops)


def test_low_resolution_alone() -> None:
    """``max_crops`` 0 is ours; the padding of the last crop, which v1 misplaces, is that of the only one."""
    inputs = preprocess(np.zeros((30, 40, 3), np.uint8), replace(ImageConfig.parse(RELEASED), max_crops=0))
    assert inputs.crops.shape == (1, 336, 336, 3) and inputs.high_res == (0, 0)
    assert inputs.padding is not None and (inputs.padding == 2).all() and len(inputs.pooling) == 144


@pytest.mark.parametrize("size", SIZES)
def test_preprocessing(size: str, golden: dict[str, Any]) -> None:
    """Ids, order of the features, and padding exact; pixels to 1e-6 of full scale."""
    height, width = map(int, size.split("x"))
    image = np.random.default_rng(height * 10000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    config = ImageConfig.parse(RELEASED)
    inputs = preprocess(image, config)
    ids = image_token_ids(inputs, Vocabulary(), config)
    np.testing.assert_array_equal(ids, golden[f"{size}.ids"])
    np.testing.assert_array_equal(inputs.padding, golden[f"{size}.mask"])
    np.testing.assert_array_equal(pooling_of(golden[f"{size}.index"]), inputs.pooling)
    at = np.random.default_rng(7).integers(0, inputs.crops.size // 3, 300)
    pixels = inputs.crops.reshape(-1, 3)[at] / 255
    np.testing.assert_allclose(pixels, golden[f"{size}.pixels"], atol=2e-6)


def pooling_of(index: np.ndarray) -> np.ndarray:
    """Upstream says for each 2x2 window of each crop at which token it goes; we list windows by token."""
    crop, window = np.nonzero(index >= 0)
    order = np.argsort(index[crop, window])
    crop, (row, column) = crop[order], np.divmod(window[order], 12)
    first = crop * 576 + row * 48 + column * 2
    return first[:, None] + np.array([0, 1, 24, 25])


RELEASED = {
    "base_image_input_size": [336, 336], "image_patch_size": 14, "image_token_length_h": 12,
    "image_token_length_w": 12, "max_crops": 12, "overlap_margins": [4, 4], "image_padding_mask": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
