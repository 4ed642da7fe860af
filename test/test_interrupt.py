"""A query that is cancelled in the middle of a long pass."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from scripted import Script
from tiny_molmo2 import QWEN, write_checkpoint

from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.datatypes import Answer
from molmo_ros.errors import CancelledError
from molmo_ros.runtimes.select import load_runtime

IMAGE, OTHER = np.random.default_rng(5).integers(0, 256, (2, 900, 1200, 3), dtype=np.uint8)
PROMPT = "Point to the mug."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Vision and prefill of some 200 ms on a core: as many patches and tokens as the released, few layers."""
    folder = tmp_path_factory.mktemp("interrupt") / "ckpt"
    text = {**QWEN, "intermediate_size": 2048}
    return load_checkpoint(str(write_checkpoint(folder, text, size=378, patch=14, max_crops=12)))


class Watched:
    """A graph's session that tells when a run begins, and counts those that came to their end."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.begun = threading.Event()
        self.ended = 0

    def run(self, *args: Any) -> Any:
        self.begun.set()
        found = self._session.run(*args)
        self.ended += 1
        return found

    def interrupt(self) -> None:
        self._session.interrupt()


@pytest.fixture(scope="module")
def fresh_answers(checkpoint: Checkpoint) -> Callable[[str], list[Answer]]:
    """What a runtime says about IMAGE, OTHER, and IMAGE again if no pass was ever interrupted."""

    @cache
    def ask(name: str) -> list[Answer]:
        molmo = Molmo(checkpoint, load_runtime(checkpoint, name, "fp32", threads=1))
        return [molmo.answer(rgb, PROMPT, max_new_tokens=6) for rgb in (IMAGE, OTHER, IMAGE)]

    return ask


@pytest.mark.parametrize("part", ["vision", "decoder"])
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_cancel_in_the_middle_of_a_pass(
    checkpoint: Checkpoint, fresh_answers: Callable[[str], list[Answer]], name: str, part: str
) -> None:
    """The pass never ends, and what follows on this image and on another one is what a fresh model says."""
    pytest.importorskip("onnxruntime" if name == "onnx" else name)
    runtime: Any = load_runtime(checkpoint, name, "fp32", threads=1)
    molmo = Molmo(checkpoint, runtime)
    session = getattr(runtime, part)
    watched = Watched(session)
    setattr(runtime, part, watched)
    with pytest.raises(CancelledError):
        molmo.answer(IMAGE, PROMPT, should_stop=watched.begun.is_set)
    assert watched.begun.is_set() and not watched.ended
    setattr(runtime, part, session)
    for rgb, expected in zip((IMAGE, OTHER, IMAGE), fresh_answers(name), strict=True):
        found = molmo.answer(rgb, PROMPT, max_new_tokens=6)
        assert found.token_ids == expected.token_ids
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    runtime.interrupt()  # nothing runs: the next pass is none the worse
    assert molmo.answer(255 - IMAGE, PROMPT, max_new_tokens=6).token_ids


class Hanging(Script):
    """Its vision fails when it is interrupted, and not before."""

    failure: Exception = RuntimeError("interrupted")

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint, "There are none.")
        self.interrupted = threading.Event()

    def encode_image(self, *args: Any) -> Any:
        assert self.interrupted.wait(30)
        raise self.failure

    def interrupt(self) -> None:
        self.interrupted.set()


def test_a_pass_that_hangs_is_ended(checkpoint: Checkpoint) -> None:
    runtime = Hanging(checkpoint)
    asked = iter([False] * 4)
    with pytest.raises(CancelledError) as raised:
        Molmo(checkpoint, runtime).answer(IMAGE, PROMPT, should_stop=lambda: next(asked, True))
    assert raised.value.__cause__ is runtime.failure
    assert "should_stop" not in {thread.name for thread in threading.enumerate()}


def test_a_failure_is_no_cancel(checkpoint: Checkpoint) -> None:
    """The pass fails by itself while it is watched."""
    runtime = Hanging(checkpoint)
    runtime.interrupted.set()
    with pytest.raises(RuntimeError, match="interrupted"):
        Molmo(checkpoint, runtime).answer(IMAGE, PROMPT, should_stop=lambda: False)
