"""Points in the JSON of Gemini Robotics-ER: y before x, per mille, and nothing else is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo_ros.answer_format.grammar import Plan
from molmo_ros.answer_format.json_points import JsonGrammar
from molmo_ros.answer_format.points import is_denial
from molmo_ros.errors import ParameterError
from molmo_ros.runtimes.remote.formats import grammar_of

GRAMMAR = JsonGrammar()
ONE = '[{"point": [250, 500], "label": "red mug"}]'
TWO = '[{"point": [250, 500], "label": "red mug"}, {"label": "bowl", "point": [1000, 0]}]'


def _read(text: str) -> list[tuple[float, float, str]]:
    return [(p.x, p.y, p.label) for p in GRAMMAR.parse(text, 640, 480)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE, [(319.5, 119.5, "red mug")]),
        (TWO, [(319.5, 119.5, "red mug"), (0.0, 479.0, "bowl")]),
        (f"```json\n{ONE}\n```", [(319.5, 119.5, "red mug")]),
        ('[\n  {"point": [250, 500]}\n]', [(319.5, 119.5, "")]),
        ('[{"point": [250, 500], "label": "a \\"b\\" <points>"}]', [(319.5, 119.5, 'a "b"  points')]),
        (TWO[:-12], [(319.5, 119.5, "red mug")]),  # cut off by the token limit
        ('[{"point": [250, 1001], "label": "out"}, {"point": [250, 500]}]', [(319.5, 119.5, "")]),
        ("[]", []),
        ("Here you are: " + ONE, []),
        ('[{"point": [250.5, 500]}]', []),
        ('[{"point": [-250, 500]}]', []),
        ('[{"point": ["250", 500]}]', []),
        ('[{"point": [250, 500, 3]}]', []),
        ('[{"point": [250, 500], "label": 3}]', []),
        ('[{"box_2d": [1, 2, 3, 4], "label": "box"}]', []),
        ('{"point": [250, 500]}', []),
        ("", []),
    ],
)
def test_only_this_format_is_read(text: str, expected: list[tuple[float, float, str]]) -> None:
    assert _read(text) == expected


def test_spans_are_those_of_the_numbers() -> None:
    for point in GRAMMAR.scan(TWO):
        x, y = (TWO[slice(*span)] for span in (point.x_span, point.y_span))
        assert (float(x), float(y)) == (point.x, point.y)


def test_an_answer_is_done_with_its_list_or_with_enough_points() -> None:
    assert not GRAMMAR.done(TWO[:-1], Plan()) and GRAMMAR.done(TWO, Plan())
    assert GRAMMAR.done(TWO[:-5], Plan(max_points=1)) and not GRAMMAR.done(TWO[:20], Plan(max_points=1))
    assert GRAMMAR.done("```json\n[]", Plan()) and not GRAMMAR.done("[", Plan())


@pytest.mark.parametrize("text", ["[]", " [ ]\n", "```json\n[]\n```", "```json\n[]"])
def test_an_empty_list_says_that_nothing_is_there(text: str) -> None:
    assert is_denial(text) and GRAMMAR.scan(text) == ()


@pytest.mark.parametrize("text", ["[", ONE, "[] but look at", "[null]"])
def test_other_lists_do_not(text: str) -> None:
    assert not is_denial(text)


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        ("gemini-robotics-er-1.5-preview", ONE),
        ("models/Gemini-2.5-flash", ONE),
        ("allenai/Molmo2-8B", '<points coords="1 1 500 250">red mug</points>'),
        ("allenai/Molmo-7B-D-0924", '<point x="50.0" y="25.0" alt="red mug">red mug</point>'),
        ("allenai/MolmoE-1B-0924", '<point x="50.0" y="25.0" alt="red mug">red mug</point>'),
        ("our-finetune", '<points coords="1 1 500 250">red mug</points>'),
    ],
)
def test_the_name_of_a_model_tells_its_format(model: str, answer: str) -> None:
    (point,) = grammar_of("auto", model).parse(answer, 640, 480)
    assert (point.x, point.y, point.label) == (319.5, 119.5, "red mug")


def test_a_model_whose_points_a_server_cannot_tell_is_refused() -> None:
    with pytest.raises(ParameterError, match="choosing patches"):
        grammar_of("auto", "allenai/MolmoPoint-8B")
    assert grammar_of("molmo2", "our-MolmoPoint-that-writes-numbers")


@given(st.text(max_size=200))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    _read(text)
    _read("[" + text)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.text(max_size=20)), max_size=5))
def test_what_json_writes_is_read_back(entries: list[tuple[int, int, str]]) -> None:
    text = json.dumps([{"point": [y, x], "label": label} for y, x, label in entries])
    assert [(p.x, p.y) for p in GRAMMAR.scan(text)] == [(x, y) for y, x, _ in entries]
