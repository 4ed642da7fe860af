"""Whole answers of MolmoPoint: a runtime that points where it is told to, through real keys and queries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scripted import Script, Tape
from tiny_molmo_point import write_checkpoint
from written import written_in_tokens

from molmo_ros.answer.molmo import Molmo
from molmo_ros.answer_format.patches import PatchMap, point_token
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.checkpoint.preprocess import preprocess
from molmo_ros.datatypes import Answer, ImagePoint
from molmo_ros.errors import AnswerError, CancelledError
from molmo_ros.runtimes.base import Outputs
from molmo_ros.runtimes.choices import LogitChoices

IMAGE = np.zeros((40, 150, 3), np.uint8)
PROMPT = "Point to the mugs."
LOUD = 30.0  # a query is as long as that; keys are of length 1


class PointScript(Script):
    """Says a text with <POINT_k> in it: its queries are turned so that they meet the keys it wants."""

    def __init__(self, checkpoint: Checkpoint, text: str) -> None:
        wide = replace(checkpoint.config.text, vocab_size=checkpoint.config.logits)
        super().__init__(replace(checkpoint, config=replace(checkpoint.config, text=wide)), text)
        assert checkpoint.config.point is not None
        self.point: Any = checkpoint.config.point
        self.tokens: Any = checkpoint.encoder
        self.keys, self.patch_keys = np.zeros((0, 0), np.float32), np.zeros((0, 0, 0), np.float32)
        self.no_point = checkpoint.weights.read("model.point_predictor.add_no_point_class_embed.vector")
        self.places = PatchMap.of(preprocess(IMAGE, checkpoint.image), checkpoint.image.pooling)

    def encode_patches(self, crops: np.ndarray, pooling: np.ndarray) -> tuple[np.ndarray, ...]:
        """Embeddings that tell in their first column which token they stand for."""
        self.images += 1
        count, slots, rng = *pooling.shape, np.random.default_rng(0)
        keys = rng.standard_normal((count * (1 + slots), self.point.embed_size)).astype(np.float32)
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        self.keys, self.patch_keys = keys[:count], keys[count:].reshape(count, slots, -1)
        embeds = np.zeros((count, self.hidden), np.float32)
        embeds[:, 0] = self.tokens.first_point + np.arange(count) - self.tokens.token_index
        patches = np.zeros((count, slots, self.hidden), np.float32)
        patches[..., 0] = self.tokens.first_point + count + 1 + np.arange(slots)
        return embeds, patches, self.patch_keys

    def run(
        self, embeds: np.ndarray, kv_limit: np.ndarray, cache: Tape, rows: np.ndarray, *, logits: bool = False
    ) -> Outputs:
        past, size = cache.length, self.point.embed_size
        self.runs.append((past, len(embeds)))
        cache.ids.extend(int(i) for i in embeds[:, 0])
        found = np.zeros((len(rows), self.vocab), np.float32)
        pointing = np.zeros((len(embeds), 3 * size + self.point.places), np.float32)
        if not past:  # no other token reads as one this high
            lowest = self.tokens.im_patch + self.tokens.first_point - self.tokens.token_index
            pointing[np.array(cache.ids) >= lowest, size : 2 * size] = self.keys
        start = self._answer_start(cache.ids)
        for line, row in zip(found, rows, strict=True):
            self._say(line, pointing[row], cache.ids[start : past + int(row) + 1])
        return Outputs(LogitChoices(found, self.asked), pointing)

    def _say(self, logits: np.ndarray, pointing: np.ndarray, spoken: list[int]) -> None:
        stand_ins = [self._read_as(token) for token in self.answer]
        known = spoken == stand_ins[: len(spoken)] and len(spoken) < len(self.answer)
        if not known:
            logits[self.rubbish] = self.logit
            return
        said, token, size = self.answer[: len(spoken)], self.answer[len(spoken)], self.point.embed_size
        number, count = token - self.tokens.first_point, len(self.keys)
        chosen = [t - self.tokens.first_point for t in said if 0 <= t - self.tokens.first_point < count]
        if number < 0:
            logits[token] = self.logit
        elif number <= count:
            logits[self.tokens.token_index] = self.logit
            pointing[:size] = self._query(number, chosen[-1] if chosen else None)
        elif number <= count + 4:
            pointing[2 * size : 3 * size] = LOUD * self.patch_keys[chosen[-1], number - count - 1]
        else:
            pointing[3 * size + number - count - 5] = LOUD

    def _query(self, number: int, last: int | None) -> np.ndarray:
        """Turned back by the last token, it meets the key of the wanted one, turned by its own place."""
        if number == len(self.keys):
            key, turn = self.no_point / np.linalg.norm(self.no_point), 0
        else:
            key, turn = self.keys[number], number - self.places.low
        turn -= 0 if last is None else last - self.places.low
        cosine, sine = self.point.rotations(np.array([turn]))
        first, second = np.split(key, 2)
        turned = key * cosine[0] + np.concatenate([-second, first]) * sine[0]
        return np.asarray(LOUD * np.sqrt(len(self.keys)) * turned, np.float32)

    def _read_as(self, token: int) -> int:
        number = token - self.tokens.first_point
        if number == len(self.keys):
            return int(self.tokens.token_index)
        return int(self.tokens.place_index) if number > len(self.keys) + 4 else token


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(write_checkpoint(tmp_path_factory.mktemp("scripted") / "c")))


@pytest.fixture
def script(checkpoint: Checkpoint) -> PointScript:
    return PointScript(checkpoint, "")


def written(
    script: PointScript, rng: np.random.Generator, count: int
) -> tuple[str, list[tuple[float, float]]]:
    """An answer with points in different patches, and where they are in px."""
    rows, columns = script.places.patches
    cells = rng.permutation(rows * columns)[:count]
    middle = 1.5 * 0.33
    wanted = [
        ((c % columns + middle) / columns * 150 - 0.5, (c // columns + middle) / rows * 40 - 0.5)
        for c in cells
    ]  # fmt: skip
    points = [ImagePoint(x, y, "mugs") for x, y in wanted]
    return written_in_tokens(points, "mugs", script.places, 150, 40), wanted


def places(answer: Answer) -> list[tuple[float, float]]:
    return [(p.x, p.y) for p in answer.points]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_answers(checkpoint: Checkpoint, script: PointScript, count: int) -> None:
    """Token by token, with drafts, and stopped at the last point: the same points; three passes for each."""
    molmo, rng = Molmo(checkpoint, script), np.random.default_rng(count)
    for _ in range(10):
        text, wanted = written(script, rng, count)
        script.say(text)
        plain = molmo.answer(IMAGE, PROMPT, drafts=False)
        assert plain.text == text and list(plain.token_ids) == script.answer
        assert plain.passes == len(script.answer)
        np.testing.assert_allclose(sorted(places(plain)), sorted(wanted), atol=1e-6)
        assert [(p.label, p.instance) for p in plain.points] == [("mugs", i + 1) for i in range(count)]
        drafted = molmo.answer(IMAGE, PROMPT)
        assert drafted.token_ids == plain.token_ids and drafted.passes < plain.passes
        quick = molmo.point(IMAGE, PROMPT, label="mugs")
        assert quick.text == text and places(quick) == places(plain)
        assert quick.passes == 3 * count + 1, "the opening in the prefill, three for each point"
        exact = molmo.point(IMAGE, PROMPT, label="mugs", exact=True, previous=quick)
        assert exact.token_ids == plain.token_ids and exact.passes <= 3 * count + 2
        sure = [p.confidence for p in plain.points]
        assert sure == sorted(sure, reverse=True) and 0 < sure[-1] <= sure[0] < 1
        assert quick.points[-1].confidence == pytest.approx(plain.points[-1].confidence, rel=1e-3)
    assert script.images == 1


def test_max_points(checkpoint: Checkpoint, script: PointScript) -> None:
    molmo = Molmo(checkpoint, script)
    text, _ = written(script, np.random.default_rng(0), 4)
    script.say(text)
    every = molmo.answer(IMAGE, PROMPT)
    for most in (1, 3, 4, 5):
        for answer in (
            molmo.point(IMAGE, PROMPT, label="mugs", max_points=most),
            molmo.answer(IMAGE, PROMPT, max_points=most),
        ):
            assert places(answer) == places(every)[:most]
    few = molmo.point(IMAGE, PROMPT, label="mugs", max_points=2)
    assert few.text.endswith(f'2{point_token(script.places.no_more)}">mugs</point>') and few.passes == 6


def test_none_and_sentences(checkpoint: Checkpoint, script: PointScript) -> None:
    molmo = Molmo(checkpoint, script)
    script.say("There are none.")
    for answer in (molmo.answer(IMAGE, PROMPT), molmo.point(IMAGE, PROMPT, label="mug")):
        assert (answer.text, answer.points) == ("There are none.", ())
    text, wanted = written(script, np.random.default_rng(1), 2)
    script.say(f"Counting the {text} shows a total of 2.")
    answer = molmo.answer(IMAGE, "How many mugs are there?")
    assert answer.text == f"Counting the {text} shows a total of 2."
    np.testing.assert_allclose(sorted(places(answer)), sorted(wanted), atol=1e-6)
    assert len(molmo.answer(IMAGE, PROMPT, max_new_tokens=len("Counting the ") + 19).points) == 1


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_cancel_within_one_step(checkpoint: Checkpoint, script: PointScript, steps: int) -> None:
    molmo = Molmo(checkpoint, script)
    text, _ = written(script, np.random.default_rng(2), 2)
    script.say(text)
    with pytest.raises(CancelledError):
        molmo.answer(IMAGE, PROMPT, should_stop=lambda: len(script.runs) >= steps)
    assert len(script.runs) == steps
    assert molmo.answer(IMAGE, PROMPT).text == text


def test_overflow_is_told(
    checkpoint: Checkpoint, script: PointScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word's logits, as everything that points."""
    molmo, run = Molmo(checkpoint, script), script.run

    def overflow(*given: Any) -> Outputs:
        found = run(*given)
        logits = np.full((len(found.choices.tokens), checkpoint.config.logits), np.nan, np.float32)
        assert found.pointing is not None
        return Outputs(LogitChoices(logits, checkpoint.encoder.asked), found.pointing * np.nan)

    monkeypatch.setattr(script, "run", overflow)
    with pytest.raises(AnswerError, match="overflow"):
        molmo.answer(IMAGE, PROMPT)
