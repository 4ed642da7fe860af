"""Answers as text: golden strings of both generations, and properties over arbitrary ones."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import written

from molmo_ros.answer_format import points
from molmo_ros.answer_format.grammar import Format

UNIT = {"width": 1000, "height": 1000}  # per mille = pixels + 0.5


def xy(text: str, width: int = 1000, height: int = 1000) -> list[tuple[float, float]]:
    return [(p.x, p.y) for p in points.parse_molmo2(text, width, height)]


def test_pixel_convention() -> None:
    # 500 per mille of 640 is the boundary between pixels 319 and 320, i.e. 319.5 with centres at integers.
    (point,) = points.parse_molmo2('<points coords="1 1 500 250">mug</points>', 640, 480)
    assert (point.x, point.y, point.label, point.instance) == (319.5, 119.5, "mug", 1)


def test_two_points_and_their_spans() -> None:
    text = '<points coords="1 1 308 305 2 752 377">curb ramp</points>'
    assert xy(text) == [(307.5, 304.5), (751.5, 376.5)]
    first, second = points.scan_molmo2(text)
    assert text[slice(*first.x_span)] == "308" and text[slice(*second.y_span)] == "377"
    assert (first.label, first.tag_start) == ("curb ramp", 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There are none.", []),
        ("", []),
        ('<points coords="1 1 555 169;2 3 649 154 4 709 162">dog</points>', [(554.5, 168.5)]),
        ('<points coords="1 1 100 200\t2 2 300 400">dog</points>', [(99.5, 199.5)]),
        ('<points coords="2 1 555 169">of another image</points>', []),
        ('<points coords="1 1 1000 000">corner</points>', [(999.0, 0.0)]),
        ('<points coords="1 1 1001 500 2 500 500">outside</points>', [(499.5, 499.5)]),
        ('<points coords="1 1 50 500 2 500 600">short</points>', [(499.5, 599.5)]),
        ('<points coords="1 1 500 500" alt="mug"/>', [(499.5, 499.5)]),
        ('<points alt="a mug" coords="1 1 500 500">x</points>', [(499.5, 499.5)]),
        ('<tracks coords="1 1 500 500">x</tracks>', [(499.5, 499.5)]),
        (
            'Counting the <points coords="1 1 900 400 2 911 800">dogs</points> shows a total of 2.',
            [(899.5, 399.5), (910.5, 799.5)],
        ),
        (
            '<points coords="1 1 100 100">a</points> and <points coords="1 2 200 200">b</points>',
            [(99.5, 99.5), (199.5, 199.5)],
        ),
        # cut off by the token limit
        ('<points coords="1 1 308 305 2 752 377', [(307.5, 304.5), (751.5, 376.5)]),
        ('<points coords="1 1 308 305 2 752 37', [(307.5, 304.5)]),
        ('<points coords="1 1 308 305 2 752 100', [(307.5, 304.5)]),
        ('<points coords="1 1 308 305"', [(307.5, 304.5)]),
        ('<points coords="1 1 308 305">mu', [(307.5, 304.5)]),
        # not points
        ("1 1 308 305", []),
        ('<points coords="0.5 1 308 305">of a video</points>', []),
        ('<pointsy coords="1 1 308 305">x</pointsy>', []),
        ('<points coords="1 308 305">no id: the image index must not serve as one</points>', []),
    ],
)
def test_golden(text: str, expected: list[tuple[float, float]]) -> None:
    assert xy(text) == expected


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ('<points coords="1 1 308 305">the mug</points>', "the mug"),
        ('<points coords="1 1 308 305" alt="the mug"/>', "the mug"),
        ('<points coords="1 1 308 305" alt="the mug">', "the mug"),
        ('<points coords="1 1 308 305', ""),
    ],
)
def test_label(text: str, label: str) -> None:
    assert [p.label for p in points.parse_molmo2(text, 9, 9)] == [label]


def test_instances_count_over_the_answer() -> None:
    text = '<points coords="1 7 100 100 9 200 200">a</points><points coords="1 9 300 300">b</points>'
    assert [p.instance for p in points.parse_molmo2(text, 640, 480)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (' <point x="61.5" y="40.4" alt="mug">mug</point>', [(614.5, 403.5)]),
        (
            ' <points x1="10.0" y1="20.5" x2="64.1" y2="22.0" alt="m">m</points>',
            [(99.5, 204.5), (640.5, 219.5)],
        ),
        ('<point x="100.0" y="0.0" alt="m">m</point>', [(999.0, 0.0)]),
        ('<point x="100.5" y="0.0" alt="m">m</point>', []),
        ('<points x1="10.0" y1="20.5" x2="64.1" y2="22', [(99.5, 204.5)]),
        (" This isn't in the image.", []),
    ],
)
def test_molmo1_golden(text: str, expected: list[tuple[float, float]]) -> None:
    found = [(p.x, p.y) for p in points.parse_molmo1(text, 1000, 1000)]
    np.testing.assert_allclose(np.reshape(found, (-1, 2)), np.reshape(expected, (-1, 2)))


grid = st.lists(st.tuples(st.integers(1, 999), st.integers(1, 999)), max_size=30)
names = (
    st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=20)
    .map(lambda s: s.replace("<", "").replace(">", "").strip())
    .filter(bool)
)


@given(grid, names)
def test_molmo2_round_trip(pixels: list[tuple[int, int]], label: str) -> None:
    want = [(x - 0.5, y - 0.5, label, i) for i, (x, y) in enumerate(sorted(pixels), start=1)]
    for text in (points.format_molmo2(pixels, label), points.format_count_molmo2(pixels, label)):
        parsed = points.parse_molmo2(text, 1000, 1000)
        assert [(p.x, p.y, p.label, p.instance) for p in parsed] == want


@given(grid, st.integers(64, 4000), st.integers(64, 4000))
def test_molmo2_quantisation(per_mille: list[tuple[int, int]], width: int, height: int) -> None:
    parsed = points.parse_molmo2(points.format_molmo2(per_mille, "m"), width, height)
    for point, (x, y) in zip(parsed, sorted(per_mille), strict=True):
        assert point.x == pytest.approx(min(max(x / 1000 * width - 0.5, 0), width - 1))
        assert point.y == pytest.approx(min(max(y / 1000 * height - 0.5, 0), height - 1))


@given(grid)
def test_molmo1_round_trip(pixels: list[tuple[int, int]]) -> None:
    parsed = points.parse_molmo1(written(Format.MOLMO1, sorted(pixels), "mug"), 1000, 1000)
    got, want = [(p.x, p.y) for p in parsed], [(x - 0.5, y - 0.5) for x, y in sorted(pixels)]
    np.testing.assert_allclose(np.reshape(got, (-1, 2)), np.reshape(want, (-1, 2)), atol=1e-9)


FRAGMENTS = ["<points", "<point", ' coords="', '"', ">", "</points>", "1 1 308 305", ";", "\t", " ",
' x1="10.0"',
             ' y1="20.5"', " alt=", "1000", "<", "/>", "There are none.", "0.5", "\x00"]  # fmt: skip
fragments = st.lists(
    st.one_of(
        st.sampled_from(FRAGMENTS),
        st.text(max_size=20),
    ),
    max_size=300,
).map("".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(fragments)
def test_any_text_gives_points_inside_the_image(text: str) -> None:
    for parsed in (points.parse_molmo2(text, 640, 480), points.parse_molmo1(text, 640, 480)):
        assert all(0 <= p.x <= 639 and 0 <= p.y <= 479 for p in parsed)


@pytest.mark.parametrize(
    "unit", ["<points ", '<points coords="', '<points coords="1 1 308 305 ', ' a="', "1 "]
)
def test_time_is_bounded(unit: str) -> None:
    text = (unit * 10000)[:10000]
    start = time.thread_time()
    points.parse_molmo2(text, 640, 480)
    points.parse_molmo1(text, 640, 480)
    assert time.thread_time() - start < 1.0


@pytest.mark.parametrize(
    "text",
    [
        "There are none.", " There are none.", "There are none", "This isn't in the image.", "None.",
        "This is not in the image.",
        "There is no red mug in the image.", "There are no mugs.", "I don't see a red mug in the picture.",
        "The red mug is not visible in this image.", "No red mug is visible.", "Nothing.",
        "There aren\u2019t any mugs here.", "It cannot be seen.",
    ],
)  # fmt: skip
def test_a_denial(text: str) -> None:
    assert points.is_denial(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "There", "There are", "There are.", "There areThere are...", "none" * 100, "There are one.",
        "There are none. There are none.", "There are " + "no " * 200,
        "There are none.There are none.", "There are none <points", "There are nonesuch", "mug", "0", ".",
        "The mug is on the table.", "Counting the mugs shows a total of 2.",
        "There is There is no mug.", "This isn't in the image. This isn't in the image.",
    ],
)  # fmt: skip
def test_no_denial(text: str) -> None:
    assert not points.is_denial(text)


def test_looking_for_a_denial_takes_no_time() -> None:
    start = time.thread_time()
    for unit in ("there are no ", "the ", "no no is ", "isn't not ", "is ", " "):
        points.is_denial(unit * 100_000)
    assert time.thread_time() - start < 1.0
