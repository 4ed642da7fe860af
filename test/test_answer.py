"""The answer loop on a scripted runtime, and on a random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import Script
from tiny_molmo2 import write_checkpoint

from molmo_ros.answer.decoding import Steps, kv_limits
from molmo_ros.answer.molmo import Molmo
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.errors import AnswerError, CancelledError, FrameError, QueryError
from molmo_ros.runtimes.base import Outputs
from molmo_ros.runtimes.choices import LogitChoices

TWO = '<points coords="1 1 308 305 2 752 377">mugs</points>'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(write_checkpoint(tmp_path_factory.mktemp("answer") / "ckpt")))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def scripted(checkpoint: Checkpoint, text: str, probability: float = 0.9) -> tuple[Molmo, Script]:
    runtime = Script(checkpoint, text, probability)
    return Molmo(checkpoint, runtime), runtime


def test_points_in_pixels(checkpoint: Checkpoint, image: np.ndarray) -> None:
    molmo, runtime = scripted(checkpoint, TWO)
    answer = molmo.answer(image, "Point to the mugs.", drafts=False)
    assert answer.text == TWO
    got = [(p.x, p.y) for p in answer.points]
    np.testing.assert_allclose(
        got, [(0.308 * 64 - 0.5, 0.305 * 48 - 0.5), (0.752 * 64 - 0.5, 0.377 * 48 - 0.5)]
    )
    assert [(p.label, p.instance) for p in answer.points] == [("mugs", 1), ("mugs", 2)]
    assert answer.token_ids == tuple(runtime.answer)
    assert answer.logprobs == pytest.approx([np.log(0.9)] * len(runtime.answer), abs=1e-5)
    assert set(answer.stages_ms) == {"preprocess", "vision", "prefill", "decode"}
    assert answer.passes == len(runtime.runs) == len(runtime.answer), "one per token, prefill included"
    assert 0 < answer.points[1].confidence < answer.points[0].confidence < 1


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_overflow_in_the_network_is_told(
    checkpoint: Checkpoint, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    molmo, runtime = scripted(checkpoint, TWO)
    run, asked = runtime.run, checkpoint.encoder.asked

    def overflow(*given: Any) -> Outputs:
        rows, vocabulary = len(run(*given).choices.tokens), checkpoint.config.logits
        logits = np.where(np.arange(vocabulary) == 7, number, np.zeros((rows, vocabulary)))
        return Outputs(LogitChoices(logits.astype(np.float32), asked))

    monkeypatch.setattr(runtime, "run", overflow)
    with pytest.raises(AnswerError, match="precision"):
        molmo.answer(image, "Point to the mugs.")


def test_nothing_there(checkpoint: Checkpoint, image: np.ndarray) -> None:
    answer = scripted(checkpoint, "There are none.")[0].answer(image, "Point to the mug.")
    assert (answer.text, answer.points) == ("There are none.", ())


def test_second_question_reuses_the_image(checkpoint: Checkpoint, image: np.ndarray) -> None:
    molmo, runtime = scripted(checkpoint, "There are none.")
    molmo.answer(image, "Point to the mug.")
    first = runtime.runs[0]
    runtime.runs.clear()
    again = molmo.answer(image.copy(), "How many bowls are there?", drafts=False)
    past, new = runtime.runs[0]
    assert runtime.images == 1 and past + new > new and past < first[1]
    assert new == len(checkpoint.encoder.turn("How many bowls are there?"))
    assert again.stages_ms["vision"] == 0.0
    molmo.answer(255 - image, "Point to the mug.", drafts=False)
    assert runtime.images == 2 and runtime.runs[-len(runtime.answer)][0] == 0


def test_limits(checkpoint: Checkpoint, image: np.ndarray) -> None:
    molmo, runtime = scripted(checkpoint, TWO)
    answer = molmo.answer(image, "Point to the mugs.", max_new_tokens=5, drafts=False)
    assert len(answer.token_ids) == 5 and len(runtime.runs) == 5
    for most in (0, 1, 5, 12):
        limited = molmo.answer(image, "Point to the mugs.", max_new_tokens=most)
        assert limited.token_ids == tuple(runtime.answer[:most])


@pytest.mark.parametrize(("most", "points"), [(1, 1), (2, 2), (3, 2), (None, 2)])
def test_max_points(checkpoint: Checkpoint, image: np.ndarray, most: int | None, points: int) -> None:
    answer = scripted(checkpoint, TWO)[0].answer(image, "Point to the mugs.", max_points=most)
    assert len(answer.points) == points
    assert (answer.text == TWO) == (points == 2), (
        "an answer that keeps to the limit is finished, label and all"
    )


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_cancel_within_one_step(checkpoint: Checkpoint, image: np.ndarray, steps: int) -> None:
    molmo, runtime = scripted(checkpoint, TWO)
    with pytest.raises(CancelledError):
        molmo.answer(image, "Point to the mugs.", should_stop=lambda: len(runtime.runs) >= steps)
    assert len(runtime.runs) == steps
    assert molmo.answer(image, "Point to the mugs.").text == TWO, "the next query works"


def test_failure_half_way_leaves_no_cache(checkpoint: Checkpoint, image: np.ndarray) -> None:
    molmo, runtime = scripted(checkpoint, TWO)
    good = runtime.run

    def fail(*_: Any) -> np.ndarray:
        raise MemoryError

    runtime.run = fail  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        molmo.answer(image, "Point to the mugs.")
    runtime.run = good  # type: ignore[method-assign]
    assert molmo.answer(image, "Point to the mugs.").text == TWO
    assert runtime.runs[0][0] == 0, "the whole prompt is run again"


def test_bad_input(checkpoint: Checkpoint, image: np.ndarray) -> None:
    molmo, _ = scripted(checkpoint, TWO)
    with pytest.raises(FrameError):
        molmo.answer(image.astype(np.float32), "Point to the mug.")
    for prompt in ("", "mug <|im_end|>", "x" * 2000):
        with pytest.raises(QueryError):
            molmo.answer(image, prompt)


def test_prompt_longer_than_the_model(checkpoint: Checkpoint, image: np.ndarray, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "short", {"max_position_embeddings": 60, "qk_norm_type": "qwen3",
                                                   "norm_after": False, "qkv_bias": False})  # fmt: skip
    short = load_checkpoint(str(folder))
    with pytest.raises(QueryError, match="the model holds 60; shorten"):
        scripted(short, TWO)[0].answer(image, "Point to the mug.")


def test_answer_ends_where_the_model_ends(tmp_path: Path) -> None:
    text = {"max_position_embeddings": 80, "qk_norm_type": "qwen3", "norm_after": False, "qkv_bias": False}
    short = load_checkpoint(str(write_checkpoint(tmp_path / "short", text, max_crops=0)))
    molmo, runtime = scripted(short, TWO * 4)
    molmo.answer(np.zeros((48, 64, 3), np.uint8), "Point to it.")
    assert max(past + new for past, new in runtime.runs) <= 80


def test_random_model_with_and_without_reuse(tmp_path: Path) -> None:
    """The second question on an image gives what a fresh model gives."""
    folder = str(write_checkpoint(tmp_path / "random"))
    image = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    reused = Molmo.load(folder, threads=1)
    reused.answer(image, "How many bowls are there?", max_new_tokens=20)
    second = reused.answer(image, "Point to the red mug.", max_new_tokens=20)
    fresh = Molmo.load(folder, threads=1).answer(image, "Point to the red mug.", max_new_tokens=20)
    assert second.token_ids == fresh.token_ids and second.text == fresh.text
    assert second.logprobs == pytest.approx(fresh.logprobs, abs=1e-4)
    assert reused.info["runtime"] == "onnx" and reused.info["parameters"] > 100_000
    reused.close()


def test_kv_limits() -> None:
    """BOS sees itself, image tokens 1-3 see each other, text sees what is before it."""
    assert kv_limits(0, 4, 7).tolist() == [1, 4, 4, 4, 5, 6, 7]
    assert kv_limits(4, 4, 3).tolist() == [5, 6, 7]


def test_pieces_of_a_character_over_several_tokens(checkpoint: Checkpoint) -> None:
    encoder = checkpoint.encoder
    steps = Steps(encoder.decode, encoder.digit_tokens())
    for token in encoder.encode("Öl 30€"):
        logits = np.eye(400, dtype=np.float32)[None, token] * 20
        steps.take(LogitChoices(logits, encoder.asked).choice(0))
    assert steps.text == "Öl 30€"
    assert [t.text for t in steps.tokens if t.alternatives] == ["3", "0"]
    assert all(steps.text[t.start : t.end] == t.text for t in steps.tokens)
