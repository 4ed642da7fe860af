"""Checkpoints beyond the first ones: fine-tunes of Molmo2, and MolmoPoint's smaller and specialised siblings.

Their published configurations with small numbers and random weights. test_official.py has the full sizes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (safetensors looks bfloat16 up in numpy)
import numpy as np
import pytest
import tiny_molmo2
import tiny_molmo_point
from safetensors.numpy import load_file, save_file

from molmo_ros.answer.molmo import Molmo
from molmo_ros.datatypes import Answer
from molmo_ros.errors import CheckpointError

IMAGE = np.random.default_rng(1).integers(0, 256, (40, 150, 3), dtype=np.uint8)
TABLES = {
    "lm_head.output_embeddings": "model.transformer.wte.embedding",
    "lm_head.new_output_embeddings": "model.transformer.wte.new_embedding",
}


def _answer(folder: Path, tokens: int = 24) -> Answer:
    model = Molmo.load(str(folder), "onnx", threads=1)
    try:
        return model.answer(IMAGE, "Point to the red mug.", max_new_tokens=tokens)
    finally:
        model.close()


def _change_weights(folder: Path, change: Any) -> Path:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def _change_config(folder: Path, **text: Any) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields["text_config"] |= text
    path.write_text(json.dumps(fields), encoding="utf-8")


def _share(weights: dict[str, np.ndarray]) -> None:
    """One table for both: that of the head, whose size keeps the logits in range."""
    for head, table in TABLES.items():
        weights[table] = weights[head].copy()


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """What a checkpoint answers that stores its one table twice, and says nothing of it."""
    folder = tiny_molmo_point.write_checkpoint(tmp_path_factory.mktemp("untied"), seed=37, points=3.0)
    return _answer(_change_weights(folder, _share))


@pytest.mark.parametrize("missing", ["head", "embedding", "nothing"])
def test_a_tied_head_may_be_stored_once(missing: str, untied: Answer, tmp_path: Path) -> None:
    """As MolmoPoint-Vid-4B is; which of the two names is left depends on who saved it."""

    def store_once(weights: dict[str, np.ndarray]) -> None:
        _share(weights)
        for head, table in TABLES.items():
            if missing != "nothing":
                del weights[head if missing == "head" else table]

    folder = tiny_molmo_point.write_checkpoint(tmp_path, seed=37, points=3.0)
    _change_config(folder, tie_word_embeddings=True)
    answer = _answer(_change_weights(folder, store_once))
    assert answer.token_ids == untied.token_ids
    np.testing.assert_allclose(answer.logprobs, untied.logprobs, atol=1e-5)
    assert [(p.x, p.y) for p in answer.points] == [(p.x, p.y) for p in untied.points]


def test_a_head_that_is_missing_and_not_tied_is_an_error(tmp_path: Path) -> None:
    folder = tiny_molmo_point.write_checkpoint(tmp_path)
    _change_weights(folder, lambda weights: weights.pop("lm_head.output_embeddings"))
    with pytest.raises(CheckpointError, match=r"1 tensors are missing \(lm_head.output_embeddings\)"):
        Molmo.load(str(folder), "onnx")


def test_molmo2_with_one_table_is_read_too(tmp_path: Path) -> None:
    """As a fine-tune is that was saved with its head tied."""

    def share(weights: dict[str, np.ndarray]) -> None:
        weights["lm_head.weight"] = weights["model.transformer.wte.embedding"].copy()

    one = _change_weights(tiny_molmo2.write_checkpoint(tmp_path / "one"), share)
    two = tiny_molmo2.write_checkpoint(tmp_path / "two")
    _change_config(two, tie_word_embeddings=True)
    _change_weights(two, lambda weights: weights.pop("lm_head.weight"))
    assert _answer(one, 8).token_ids == _answer(two, 8).token_ids


def test_a_gui_model_with_many_crops_opens(tmp_path: Path) -> None:
    """MolmoPoint-GUI-8B: no id for the start of the low resolution in config.json; more and smaller crops."""
    folder = tiny_molmo_point.write_checkpoint(
        tmp_path, max_crops=24, seed=37, points=3.0, low_res_image_start_token_id=None
    )
    few = tiny_molmo_point.write_checkpoint(tmp_path / "few", max_crops=4, seed=37, points=3.0)
    sizes = []
    for one in (folder, few):
        model = Molmo.load(str(one), "onnx", threads=1)
        model.answer(IMAGE, "Point to the search field.", max_new_tokens=6)
        (seen,) = model.images
        sizes.append(seen.length)
        model.close()
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fine_tunes_of_molmo2_open(dtype: str, tmp_path: Path) -> None:
    """Molmo2-VideoPoint-4B states more ids than the first ones do; others are saved in bfloat16."""
    folder = tiny_molmo2.write_checkpoint(tmp_path)
    path = folder / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    first = fields["text_config"]["vocab_size"]
    fields |= {"dtype": dtype, "image_high_res_id": first + 2, "image_low_res_id": first + 6}
    fields["adapter_config"] |= {"pooling_attention_mask": True, "image_feature_dropout": 0.0}
    path.write_text(json.dumps(fields), encoding="utf-8")

    def cast(weights: dict[str, np.ndarray]) -> None:
        weights |= {name: value.astype(dtype) for name, value in weights.items()}

    answer = _answer(_change_weights(folder, cast), 8)
    assert len(answer.token_ids) == 8 and np.isfinite(answer.logprobs).all()
