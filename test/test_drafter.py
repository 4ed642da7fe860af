"""Answers in fewer passes: never another point than plain greedy decoding gives."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripted import Script, qwen_like_tokenizer
from tiny_molmo2 import EXTRA, write_checkpoint
from written import written

from molmo_ros.answer.molmo import Molmo
from molmo_ros.answer_format.grammar import Format, Grammar
from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.checkpoint.prompt import PromptEncoder
from molmo_ros.datatypes import Answer
from molmo_ros.errors import CancelledError

LABELS = ["mug", "red mug", "mugs", "curb ramp", "dog", "green bottle", "small box", "lamp", "door handle"]
IMAGE = np.zeros((48, 64, 3), np.uint8)
PROMPT = "Point to it."
ANSWERS = int(os.environ.get("MOLMO_ROS_ANSWERS", "0"))  # of each kind; 0: 200 points, 40 answers or more


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model with a tokenizer like Qwen's."""
    folder = write_checkpoint(tmp_path_factory.mktemp("pointing") / "ckpt", max_crops=0)
    opened = load_checkpoint(str(folder))
    encoder = PromptEncoder(qwen_like_tokenizer(EXTRA))
    text = replace(opened.config.text, vocab_size=1000)
    return replace(opened, encoder=encoder, config=replace(opened.config, text=text))


def generation(checkpoint: Checkpoint, form: Format) -> Checkpoint:
    model_type = "molmo" if form is Format.MOLMO1 else "molmo2"
    return replace(checkpoint, config=replace(checkpoint.config, model_type=model_type))


def drawn(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    return sorted((int(x), int(y)) for x, y in rng.integers(0, 1001, (count, 2)))


def places(answer: Answer) -> list[tuple[float, float]]:
    return [(p.x, p.y) for p in answer.points]


BOUNDS = [
    (Format.MOLMO2, 1, 7, 22.5), (Format.MOLMO2, 3, 21, 42.5), (Format.MOLMO2, 10, 70, 114),
    (Format.MOLMO1, 1, 8, 27.8), (Format.MOLMO1, 3, 22, 61), (Format.MOLMO1, 10, 71, 174),
]  # fmt: skip


@pytest.mark.parametrize(("form", "count", "most", "greedy"), BOUNDS)
def test_passes_of_many_answers(
    checkpoint: Checkpoint, form: Format, count: int, most: float, greedy: float
) -> None:
    """Same coordinates as plain greedy decoding in every case, in few passes."""
    rng = np.random.default_rng([count, len(form.value)])
    script = Script(generation(checkpoint, form), "")
    molmo = Molmo(generation(checkpoint, form), script)
    passes, plain_passes = [], []
    for i in range(ANSWERS or max(200 // count, 40)):
        label = str(rng.choice(LABELS))
        text = written(form, drawn(rng, count), label)
        script.say(text)
        answer = molmo.point(IMAGE, PROMPT, label=label)
        assert answer.text == text and [p.label for p in answer.points] == [label] * count
        passes.append(answer.passes)
        plain_passes.append(len(script.answer))
        if i < 20 // count:  # plain greedy says what the script says, one pass a token
            plain = molmo.answer(IMAGE, PROMPT, drafts=False)
            assert places(answer) == places(plain) and len(answer.points) == count
            assert (plain.text, plain.passes) == (text, plain_passes[-1])
            assert (plain.drafted, plain.accepted) == (0, 0)
    print(f"{form.value}, {count} points: {np.mean(passes):.2f} passes, plain {np.mean(plain_passes):.2f}")
    assert np.mean(passes) <= most
    assert np.mean(plain_passes) == pytest.approx(greedy, rel=0.08)


@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize("count", [1, 3, 10])
def test_exact_text_still_in_fewer_passes(checkpoint: Checkpoint, form: Format, count: int) -> None:
    rng = np.random.default_rng(count)
    script = Script(generation(checkpoint, form), "")
    molmo = Molmo(generation(checkpoint, form), script)
    for _ in range(20):
        label = str(rng.choice(LABELS))
        script.say(written(form, drawn(rng, count), label))
        exact = molmo.point(IMAGE, PROMPT, label=label, exact=True)
        assert exact.token_ids == tuple(script.answer)
        # each pass adds a token of the model's own to those it accepts, but the last one may end on a draft
        assert len(exact.token_ids) - exact.accepted in (exact.passes, exact.passes - 1)
        assert 0 < exact.accepted <= exact.drafted
        assert exact.passes <= 7 * count + 3
        unlabelled = molmo.point(IMAGE, PROMPT, label="another", exact=True)
        assert unlabelled.token_ids == exact.token_ids


@pytest.mark.parametrize("form", list(Format))
def test_previous_answer_is_verified_in_one_pass(checkpoint: Checkpoint, form: Format) -> None:
    rng = np.random.default_rng(4)
    script = Script(generation(checkpoint, form), "")
    molmo = Molmo(generation(checkpoint, form), script)
    for count in (1, 3, 10):
        script.say(written(form, drawn(rng, count), "mugs"))
        before = molmo.point(IMAGE, PROMPT, label="mugs")
        again = molmo.point(IMAGE, PROMPT, label="mugs", previous=before)
        assert again.passes <= 2 and again.text == before.text
        assert molmo.point(IMAGE, PROMPT, exact=True, label="mugs", previous=before).passes == 1


@pytest.mark.parametrize(("form", "most"), [(Format.MOLMO2, 2.5), (Format.MOLMO1, 2.5)])
def test_passes_when_the_point_moves_by_a_per_mille(
    checkpoint: Checkpoint, form: Format, most: float
) -> None:
    """Motion of 1 per mille of the image in a random direction from answer to answer, 200 answers."""
    rng = np.random.default_rng(5)
    script = Script(generation(checkpoint, form), "")
    molmo = Molmo(generation(checkpoint, form), script)
    place, previous, passes = np.array([500.0, 300.0]), None, []
    for _ in range(201):
        x, y = (int(v) for v in np.rint(place))
        script.say(written(form, [(x, y)], "mug"))
        answer = molmo.point(IMAGE, PROMPT, label="mug", previous=previous)
        assert answer.text == written(form, [(x, y)], "mug")
        passes.append(answer.passes)
        previous, angle = answer, rng.uniform(0, 2 * np.pi)
        step = np.array([np.cos(angle), np.sin(angle)])
        place = np.clip(place + step, 3, 997)
    print(f"{form.value}: {np.mean(passes[1:]):.2f} passes with the previous answer")
    assert np.mean(passes[1:]) <= most


def test_any_previous_answer_leaves_the_points_as_they_are(checkpoint: Checkpoint) -> None:
    """A draft may be of another number of points, absurd, or of another answer altogether."""
    rng = np.random.default_rng(6)
    for form in Format:
        script = Script(generation(checkpoint, form), "")
        molmo = Molmo(generation(checkpoint, form), script)
        for _ in range(30):
            now, before = (written(form, drawn(rng, int(rng.integers(1, 5))), "mug") for _ in range(2))
            script.say(now)
            for text in (before, "There are none.", "<points coords=", ""):
                answer = molmo.point(IMAGE, PROMPT, label="mug", previous=Answer(text))
                assert answer.text == now


SPECIAL_CASES = [
    (Format.MOLMO2, [(0, 0)]), (Format.MOLMO2, [(100, 100)]), (Format.MOLMO2, [(1000, 1000)]),
    (Format.MOLMO2, [(100, 1000), (1000, 100)]), (Format.MOLMO1, [(0, 5)]), (Format.MOLMO1, [(100, 1000)]),
    (Format.MOLMO1, [(1000, 1000)]), (Format.MOLMO1, [(7, 100), (95, 1000), (1000, 105)]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "points"), SPECIAL_CASES)
def test_edges_of_the_image(checkpoint: Checkpoint, form: Format, points: list[tuple[int, int]]) -> None:
    """1000 begins like 100, and 10.0 like 100.0."""
    text = written(form, points, "mug")
    molmo = Molmo(generation(checkpoint, form), Script(generation(checkpoint, form), text))
    plain = molmo.answer(IMAGE, PROMPT, drafts=False)
    for most in (None, len(points)):
        answer = molmo.point(IMAGE, PROMPT, label="mug", max_points=most)
        assert answer.text == text and places(answer) == places(plain)


@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_most_points(checkpoint: Checkpoint, form: Format, most: int) -> None:
    text = written(form, [(100, 900), (308, 1000), (752, 377)], "mugs")
    molmo = Molmo(generation(checkpoint, form), Script(generation(checkpoint, form), text))
    answer = molmo.point(IMAGE, PROMPT, label="mugs", max_points=most)
    assert places(answer) == places(molmo.answer(IMAGE, PROMPT))[:most]
    assert [p.label for p in answer.points] == ["mugs"] * min(most, 3)


OTHER = [
    "There are none.", "This isn't in the image.", " There are none.", "",
    'Counting the <points coords="1 1 308 305 2 752 377">mugs</points> shows a total of 2.',
    '<points alt="a mug" coords="1 1 308 305">mug</points>', '<points coords="1 1 308">mug</points>',
    '<points coords="1 2 308 305 7 752 377">mug</points>', '<points coords="1 1 30 305">mug</points>',
    '<points coords="1 1 308 305;2 2 100 200">mug</points>', '<points coords="">mug</points>', "<points>",
    '<tracks coords="1 1 308 305">mug</tracks>', ' <point x="12" y="7.25" alt="mug">mug</point>',
    ' <points x1="1.5" y1="2.5" x3="4.0" y3="4.5" alt="mug">mug</points>', "A <b>bold</b> 308 305 answer",
]  # fmt: skip


@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize("text", OTHER)
def test_answers_outside_the_grammar(checkpoint: Checkpoint, form: Format, text: str) -> None:
    molmo = Molmo(generation(checkpoint, form), Script(generation(checkpoint, form), text))
    plain = molmo.answer(IMAGE, PROMPT, drafts=False)
    assert plain.text == text
    assert molmo.answer(IMAGE, PROMPT).token_ids == plain.token_ids
    assert places(molmo.point(IMAGE, PROMPT, label="mug")) == places(plain)
    assert molmo.point(IMAGE, PROMPT, label="mug", exact=True).text == text


def test_what_stands_behind_a_wrong_draft_is_the_next_draft(checkpoint: Checkpoint) -> None:
    """A model sure of each token whatever stands before it: it is read in one pass, verified in others."""

    class Sure(Script):
        def _next(self, spoken: list[int]) -> int:
            return self.answer[min(len(spoken), len(self.answer) - 1)]

    for form in Format:
        text = written(form, [(308, 742)], "mug")
        molmo = Molmo(generation(checkpoint, form), Sure(generation(checkpoint, form), text))
        answer = molmo.point(IMAGE, PROMPT, label="mug")
        assert answer.text == text and answer.passes <= 3, (form, answer.passes)


def test_a_model_without_an_idea_is_not_asked_to_guess(checkpoint: Checkpoint) -> None:
    """Its passes stay as short as without; only the prefill, long anyway, holds a guess."""
    script = Script(checkpoint, written(Format.MOLMO2, [(308, 742)], "mug"), probability=0.02)
    assert len(Molmo(checkpoint, script).point(IMAGE, PROMPT, label="mug").points) == 1
    assert max(new for _, new in script.runs[1:]) <= 4


def test_numbers_foreseen_in_unfinished_text() -> None:
    molmo2, molmo1 = Grammar(Format.MOLMO2), Grammar(Format.MOLMO1)
    opening = '<points coords="1 1 '
    assert molmo2.foresee("", "", ()) == ("500", "500") and molmo1.foresee("", "", ()) == ("50.0", "50.0")
    assert molmo2.foresee(opening + "3", '07 742">mug 5000</points>', ("500", "500")) == ("307", "742")
    assert molmo2.foresee(opening + "3", '"> 7', ("500", "500")) == ("500", "500"), "nothing to read"
    assert molmo2.foresee(opening + "307 742 2 4", "", ("307", "742")) == ("307", "742", "307", "742")
    assert molmo1.foresee(' <point x="3', '0.7" y="74.2', ("50.0", "50.0")) == ("30.7", "74.2")


def test_nothing_there_takes_two_passes(checkpoint: Checkpoint) -> None:
    molmo = Molmo(checkpoint, Script(checkpoint, "There are none."))
    answer = molmo.point(IMAGE, PROMPT)
    assert (answer.text, answer.points, answer.passes) == ("There are none.", (), 2)


@pytest.mark.parametrize("steps", range(7))
def test_cancel_within_one_pass(checkpoint: Checkpoint, steps: int) -> None:
    script = Script(checkpoint, written(Format.MOLMO2, [(308, 305)], "mug"))
    molmo = Molmo(checkpoint, script)
    with pytest.raises(CancelledError):
        molmo.point(IMAGE, PROMPT, should_stop=lambda: len(script.runs) >= steps)
    assert len(script.runs) == steps
    assert len(molmo.point(IMAGE, PROMPT).points) == 1, "the next query works"


def test_second_query_prefills_only_its_words(checkpoint: Checkpoint) -> None:
    script = Script(checkpoint, written(Format.MOLMO2, [(308, 305)], "mug"))
    molmo = Molmo(checkpoint, script)
    molmo.point(IMAGE, PROMPT)
    script.runs.clear()
    molmo.point(IMAGE, "Point to the red mug.")
    assert script.images == 1 and script.runs[0][1] < 40


def test_label_cannot_break_the_text() -> None:
    grammar = Grammar(Format.MOLMO1)
    text = grammar.finish(' <point x="61.5" y="40.4"', 'a "big" <mug>')
    assert text == ' <point x="61.5" y="40.4" alt="a big mug">a big mug</point>'
    assert grammar.parse(text, 100, 100)[0].label == "a big mug"


def test_built_in_model_says_the_same_in_fewer_passes() -> None:
    """The real model, its real tokenizer and runtime, on simulated frames."""
    from molmo_ros.checkpoint.query import parse_query
    from molmo_ros.sim import SimCamera

    molmo = Molmo.load("tiny", threads=1)
    found, passes = 0, []
    for seed in range(3):
        camera = SimCamera(seed + 300)
        rgb = camera.frame().rgb
        for query in ["the zebra", "all the mugs", *(f"the {o.name}" for o in camera.truth.objects)]:
            plain = molmo.answer(rgb, parse_query(query).prompt, drafts=False)
            answer = molmo.point(rgb, parse_query(query).prompt, label=parse_query(query).label)
            assert places(answer) == places(plain)
            assert molmo.answer(rgb, parse_query(query).prompt).text == plain.text
            for a, b in zip(answer.points, plain.points, strict=True):
                assert a.confidence == pytest.approx(b.confidence, abs=1e-3)
                np.testing.assert_allclose(a.covariance, b.covariance, rtol=0.01)
            found += len(plain.points)
            assert answer.passes <= 7 * max(len(plain.points), 1) < plain.passes + 5
            passes += [answer.passes] * (len(plain.points) == 1)
    assert found > 3
    assert np.mean(passes) < 5.5, "much of a point is foreseen: without, each takes 7"
    molmo.close()


def test_file_of_the_tokenizer_can_be_read_back(tmp_path: Path) -> None:
    """The stand-in for Qwen's tokenizer splits the official answer as Qwen's does."""
    qwen_like_tokenizer(EXTRA).save(str(tmp_path / "tokenizer.json"))
    encoder = PromptEncoder.load(tmp_path)
    pieces = [encoder.decode([i]) for i in encoder.encode('<points coords="1 1 308 305">curb ramp</points>')]
    assert pieces == [
        "<", "points", " coords", '="', "1", " ", "1", " ", "3", "0", "8", " ", "3", "0", "5", '">',
        "curb", " ramp", "</", "points", ">",
    ]  # fmt: skip
