"""As test_fuzz.py, for what is stored in several files or read by a library: shards, tokenizers, bags."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bags import Recorder
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from test_fuzz import ASSETS, FUZZ, changed, mutated, ours

from molmo_ros.checkpoint.checkpoint import open_weights
from molmo_ros.checkpoint.prompt import read_tokenizer
from molmo_ros.datatypes import RgbdFrame
from molmo_ros.recording.bag import open_bag

NAMES = st.sampled_from(
    ["a", "b", "secret", "one.safetensors", "../one.safetensors", "/etc/passwd", ".", "", "\0"]
)


@FUZZ
@given(st.data())
def test_weight_maps(data: Any) -> None:
    valid = {"metadata": {"total_size": 16}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    with tempfile.TemporaryDirectory() as outside:
        save_file({"secret": np.zeros(2, np.float32)}, Path(outside, "one.safetensors"))
        folder = Path(outside, "checkpoint")
        folder.mkdir()
        for name, shard in valid["weight_map"].items():
            save_file({name: np.zeros(2, np.float32)}, folder / shard)
        index = folder / "model.safetensors.index.json"
        for content in (
            json.dumps(changed(valid, data.draw)).encode(),
            json.dumps({"weight_map": data.draw(st.dictionaries(NAMES, NAMES, max_size=3))}).encode(),
            mutated(json.dumps(valid).encode(), data.draw),
        ):
            index.write_bytes(content)
            weights = ours(lambda: open_weights(folder))
            assert weights is None or set(weights.shapes) <= {"a", "b"}


@FUZZ
@given(st.data())
def test_tokenizers(data: Any) -> None:
    valid = json.loads((ASSETS / "tiny" / "tokenizer.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.json")
        for content in (
            json.dumps(changed(valid, data.draw)).encode(),
            mutated(json.dumps(valid).encode(), data.draw),
        ):
            path.write_bytes(content)
            tokenizer = ours(lambda: read_tokenizer(path))
            if tokenizer is not None:
                tokenizer.encode("the red mug")


@pytest.fixture(scope="module", params=["sqlite3", "mcap"])
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small frames."""
    K = np.array([[9.0, 0, 4], [0, 9, 4], [0, 0, 1]])
    frame = RgbdFrame(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.float32), K)
    recorder = Recorder()
    path = tmp_path_factory.mktemp(request.param) / "bag"
    recorder.write(path, recorder.camera([(10**9, frame), (2 * 10**9, frame)]), request.param)
    assert read(path) == 2
    return path


def read(folder: Path) -> int:
    """How many frames a recording holds."""
    with open_bag(folder) as bag:
        return len(list(bag.frames(bag.find_topics(), 0.05)))


@FUZZ
@given(data=st.data())
def test_recordings(recording: Path, data: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(recording, Path(folder, "bag")))
        file = data.draw(st.sampled_from(sorted(copy.iterdir())))
        file.write_bytes(mutated(file.read_bytes(), data.draw))
        frames = ours(lambda: read(copy))
        assert frames is None or 0 <= frames <= 4
