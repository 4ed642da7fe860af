"""The comparison with transformers is of the same work: same tokens, on real networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from tiny_molmo2 import write_checkpoint

from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import load_checkpoint
from molmo_ros.runtimes.select import load_runtime
from molmo_ros.tools.benchmark import ONE_POINT, Prompted, Times, Transformers, compare, limit

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)


@needs_transformers
def test_all_say_the_same(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(write_checkpoint(tmp_path / "ckpt")))
    runtime = Prompted(load_runtime(checkpoint, "onnx", threads=1), checkpoint, ONE_POINT)
    molmo = Molmo(checkpoint, runtime)
    frames = list(np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8))
    theirs = {"float32": Transformers(checkpoint, "float32")}
    times = compare(molmo, frames, ["the mug", "the bowl"], theirs, runtime.answer)
    assert times.same == [True, True] and len(times.first) == len(times.theirs["float32"]) == 2
    assert set(times.passes_plain) == {len(runtime.answer)} and max(times.passes) <= 8
    assert molmo.point(frames[0], "Point to it.", label="red mug").text == ONE_POINT


@needs_transformers
def test_generate_is_greedy_decoding_of_the_same_network(tmp_path: Path) -> None:
    """Without being told what to say, transformers says what our network says."""
    checkpoint = load_checkpoint(str(write_checkpoint(tmp_path / "ckpt")))
    molmo = Molmo(checkpoint, load_runtime(checkpoint, "onnx", threads=1))
    rgb = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    ours = molmo.answer(rgb, "Point to the mug.", drafts=False, max_new_tokens=12)
    theirs = Transformers(checkpoint, "float32").generate(rgb, "Point to the mug.")
    assert tuple(theirs[:12]) == ours.token_ids


def test_ratios() -> None:
    times = Times([10, 30, 20], [5, 4, 6], [8], [1, 2, 3], [7, 7], [22, 20], {"bfloat16": [50, 60, 70]})
    result = times.summary()
    assert (result["ms_points_p50"], result["ratio_second_query"]) == (20, 4)
    assert (result["passes"], result["passes_plain"]) == (7, 21)
    assert result["ratio_vs_transformers_bfloat16"] == 3 and result["ratio_vs_transformers"] is None


def test_limit_counts_the_text_model() -> None:
    """tiny: 4 layers of 192*(10*32+192) + 3*192*512 weights and a head of 640*192."""
    checkpoint = load_checkpoint("tiny")
    found = limit(checkpoint, "fp32", 1.0)
    matrices = 4 * (192 * (10 * 32 + 192) + 3 * 192 * 512) + 640 * 192
    assert found["bytes_per_token"] == pytest.approx(4 * matrices, rel=0.01)
    assert limit(checkpoint, "int8", 1.0)["bytes_per_token"] == pytest.approx(matrices, rel=0.01)
    assert found["fraction"] == pytest.approx(
        found["bytes_per_token"] / found["bandwidth_gbs"] / 1e6, rel=0.05, abs=2e-3
    )
