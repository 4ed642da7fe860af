"""Which images are cached, and that caching changes no answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripted import Tape
from tiny_molmo2 import write_checkpoint

from molmo_ros.answer.image_cache import CachedImage, ImageCache
from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import load_checkpoint
from molmo_ros.errors import CancelledError
from molmo_ros.runtimes.select import load_runtime
from molmo_ros.tools.compare_precisions import Recorder

NONE = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


def picture(value: int, height: int = 2) -> np.ndarray:
    return np.full((height, 6 // height, 3), value, np.uint8)


def seen(value: int, tokens: int, height: int = 2) -> CachedImage:
    return CachedImage(picture(value, height), Tape(range(tokens)), tokens, *NONE)


def test_the_oldest_goes_when_memory_is_full() -> None:
    images = ImageCache(limit=5000)
    for value in (1, 2):
        images.keep(seen(value, 2))  # 2018 bytes each
    assert len(images) == 2
    one = images.take(picture(1))
    assert one is not None and images.take(picture(1)) is None  # forgotten until it is given back
    images.keep(one)
    images.keep(seen(3, 2))  # 1 is newer than 2 now
    assert images.take(picture(2)) is None and images.take(picture(1)) is one
    images.keep(seen(4, 100))  # larger than the limit alone: kept, but nothing beside it
    assert len(images) == 1 and images.take(picture(4)) is not None


def test_a_video_does_not_fill_the_memory() -> None:
    images = ImageCache()
    for value in range(10):
        images.keep(seen(value, 1))
    assert len(images) == 4 and images.take(picture(5)) is None and images.take(picture(6)) is not None


def test_same_bytes_in_another_shape_are_another_image() -> None:
    images = ImageCache()
    images.keep(seen(1, 1, height=2))
    assert images.take(picture(1, height=3)) is None and images.take(picture(1, height=2)) is not None


def test_what_is_kept_holds_no_embeddings(tmp_path: Path) -> None:
    """They are no longer needed once they went through the network; a view would keep all of them alive."""
    checkpoint = load_checkpoint(str(write_checkpoint(tmp_path / "ckpt")))
    molmo = Molmo(checkpoint, load_runtime(checkpoint, "onnx", threads=1))
    rgb = np.zeros((48, 64, 3), np.uint8)
    molmo.answer(rgb, "Point to it.", max_new_tokens=2)
    kept = molmo.images.take(rgb)
    assert kept is not None and not kept.embeds.size and kept.embeds.base is None
    held = replace(kept, embeds=np.zeros((100, 4), np.float32))
    assert held.nbytes == kept.nbytes + held.embeds.nbytes  # the limit counts all that is held


def test_two_cameras_in_turn(tmp_path: Path) -> None:
    """Each image is encoded once, whatever is asked in between; a query given up half way harms neither."""
    checkpoint = load_checkpoint(str(write_checkpoint(tmp_path / "ckpt")))
    runtime = Recorder(load_runtime(checkpoint, "onnx", threads=1))
    molmo, fresh = Molmo(checkpoint, runtime), Molmo(checkpoint, runtime)
    front, wrist = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    asked = [(front, "the mug"), (wrist, "it"), (front, "all bowls"), (wrist, "a box"), (front, "the mug")]
    for turn, (rgb, query) in enumerate(asked):
        if turn == 3:
            runtime.logits.clear()
            with pytest.raises(CancelledError):  # in the middle of the answer, two passes behind the prefill
                molmo.answer(rgb, "Point to it.", should_stop=lambda: len(runtime.logits) >= 3)
        answer = molmo.answer(rgb, f"Point to {query}.", max_new_tokens=6)
        fresh.images.clear()
        assert answer.token_ids == fresh.answer(rgb, f"Point to {query}.", max_new_tokens=6).token_ids
        assert (answer.stages_ms["vision"] == 0) == (turn >= 2)
