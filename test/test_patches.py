"""Points as tokens of MolmoPoint: names of places, text and back, what comes next, and how sure it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import written_in_tokens

from molmo_ros.answer_format.confidence import Token, annotate_patches
from molmo_ros.answer_format.grammar import At, Plan
from molmo_ros.answer_format.grammar_point import OPENING, PatchGrammar
from molmo_ros.answer_format.patches import (
    PatchMap,
    parse_molmopoint,
    point_token,
    scan_molmopoint,
    select_molmopoint,
)
from molmo_ros.checkpoint.preprocess import ImageConfig, preprocess
from molmo_ros.datatypes import ImagePoint

# 46x46 patches as of a 640x480 image: 196 tokens of low resolution, 23x23 of high.
VGA = PatchMap(196, (23, 23), (46, 46), (2, 2))
ODD = PatchMap(36, (6, 16), (11, 32), (2, 2))
TWO = "".join(map(point_token, (210, 726, 733))) + "1" + "".join(map(point_token, (411, 728, 730))) + "2"
ANSWER = f'{OPENING}{TWO}{point_token(725)}">mugs</point>'


@pytest.mark.parametrize(("height", "width"), [(480, 640), (720, 1280), (33, 700), (1, 1), (900, 300)])
def test_map_of_an_image(height: int, width: int) -> None:
    """Every patch of every crop that a token stands for lies where the map says."""
    config = ImageConfig()
    inputs = preprocess(np.zeros((height, width, 3), np.uint8), config)
    places = PatchMap.of(inputs, config.pooling)
    assert places.no_more == len(inputs.pooling) and places.low == 196
    boxes = [
        places.patch_box(token, places.no_more + 1 + slot)
        for token in range(places.no_more)
        for slot in range(4)
    ]
    there = np.array([box is not None for box in boxes]).reshape(-1, 4)
    np.testing.assert_array_equal(there[196:], inputs.pooling[196:] >= 0)
    assert not there[:196].any()
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in boxes if b is not None]
    assert sum(areas) == pytest.approx(1), "the patches cover the image once"


def test_a_place_by_hand() -> None:
    """Token 210 is the 15th of the first row: patches 28 and 29 of rows 0 and 1; the first is 726."""
    assert VGA.no_more == 725 and VGA.token_box(210) == (28 / 46, 0, 30 / 46, 2 / 46)
    assert VGA.patch_box(210, 729) == (29 / 46, 1 / 46, 30 / 46, 2 / 46)
    # 733 - 730 = 3: second column, first row of the 3x3
    assert VGA.place(210, 726, 733) == pytest.approx(((28 + 1.5 * 0.33) / 46, 0.5 * 0.33 / 46))
    assert VGA.place(195, 726, 733) is VGA.place(725, 726, 733) is VGA.place(210, 725, 733) is None
    assert VGA.place(210, 730, 733) is VGA.place(210, 726, 739) is VGA.place(210, 726, 729) is None
    assert ODD.patch_box(36 + 5 * 16, ODD.no_more + 3) is None, "padding below the last row"


def test_points_of_an_answer() -> None:
    points = parse_molmopoint(ANSWER, VGA, 640, 480)
    assert [(p.label, p.instance) for p in points] == [("mugs", 1), ("mugs", 2)]
    first = ((28 + 1.5 * 0.33) / 46 * 640 - 0.5, 0.5 * 0.33 / 46 * 480 - 0.5)
    assert (points[0].x, points[0].y) == pytest.approx(first)
    count = f"Counting the {ANSWER} shows a total of 2."
    assert [(p.x, p.y) for p in parse_molmopoint(count, VGA, 640, 480)] == [(p.x, p.y) for p in points]
    spaced = ANSWER.replace("><", "> <").replace(">1", "> 1")
    assert [p.numbers for p in scan_molmopoint(spaced)] == [(210, 726, 733), (411, 728, 730)]
    for end in range(len(ANSWER)):
        whole = sum(ANSWER[:end].count(point_token(n)) for n in (733, 730))
        assert len(parse_molmopoint(ANSWER[:end], VGA, 640, 480)) == whole, "cut off by the token limit"
    assert parse_molmopoint("There are none.", VGA, 640, 480) == ()
    assert parse_molmopoint(TWO, VGA, 640, 480)[0].label == "", "without a tag"


maps = st.builds(
    lambda low, rows, columns, odd_y, odd_x: PatchMap(
        low, (rows, columns), (2 * rows - odd_y, 2 * columns - odd_x), (2, 2)
    ),
    st.integers(1, 196), st.integers(1, 30), st.integers(1, 30), st.booleans(), st.booleans(),
)  # fmt: skip


@given(maps, st.data(), st.text(alphabet="abc defgh'", min_size=1, max_size=20).map(str.strip))
@settings(deadline=None, max_examples=150)
def test_text_and_back(places: PatchMap, data: st.DataObject, label: str) -> None:
    """Points in the middle of places are written as these, in order, and read as they were."""
    width, height = 3 * places.patches[1] * 4, 3 * places.patches[0] * 4
    cells = data.draw(
        st.sets(
            st.tuples(
                st.integers(0, 3 * places.patches[1] - 1), st.integers(0, 3 * places.patches[0] - 1)
            ),
            min_size=1, max_size=8,
        )
    )  # fmt: skip

    def middle(cell: int) -> float:
        """Of a third of a patch of 12 px."""
        return 12 * (cell // 3 + (cell % 3 + 0.5) * 0.33) - 0.5

    points = [ImagePoint(middle(column), middle(row), label) for column, row in cells]
    text = written_in_tokens(points, label, places, width, height)
    back = parse_molmopoint(text, places, width, height)
    assert sorted((round(p.x, 6), round(p.y, 6)) for p in back) == sorted(
        (round(p.x, 6), round(p.y, 6)) for p in points
    )
    assert all(p.label == label for p in back)
    assert written_in_tokens(back, label, places, width, height) == text
    named = [p.numbers for p in scan_molmopoint(text)]
    assert named == sorted(named)


NUMBERS = (0, 196, 210, 725, 726, 731, 738, 739, 999999)
PIECES = [OPENING, '">', "</point>", " ", "1", "99", *map(point_token, NUMBERS)]


@given(st.text(max_size=10_000) | st.lists(st.sampled_from(PIECES), max_size=400).map("".join))
@settings(deadline=None, max_examples=200)
def test_any_text(text: str) -> None:
    points = parse_molmopoint(text, VGA, 640, 480)
    assert all(0 <= p.x <= 639 and 0 <= p.y <= 479 for p in points)
    grammar = PatchGrammar(VGA)
    for plan in (Plan(), Plan("mug", 1), Plan(exact=True)):
        grammar.draft(text, plan)
        grammar.done(text, plan)
        grammar.finish(text, "mug")


def test_what_comes_next() -> None:
    """Openings, numbers and ends are drafted, choices never."""
    grammar, plan = PatchGrammar(VGA), Plan("mugs", exact=True)
    a, b, c = map(point_token, (210, 726, 733))
    expected = {
        "": (At.START, OPENING), "<points co": (At.LITERAL, 'ords="'), OPENING: (At.CHOICE, ""),
        OPENING + a: (At.NUMBER, ""), OPENING + a + b: (At.NUMBER, ""), OPENING + a + b + c: (At.CHOICE, "1"),
        OPENING + TWO: (At.CHOICE, ""), OPENING + TWO + a + b + c: (At.CHOICE, "3"),
        OPENING + TWO + point_token(725): (At.CLOSING, '">mugs</point>'),
        OPENING + TWO + point_token(725) + '">mu': (At.CLOSING, "gs</point>"),
        f"Counting the {OPENING}{a}{b}{c}": (At.CHOICE, "1"),
        "There": (At.ELSEWHERE, " are none."), ANSWER: (At.CLOSING, ""), OPENING + "12": (At.ELSEWHERE, ""),
    }  # fmt: skip
    for text, (at, draft) in expected.items():
        assert (grammar.state(text).at, grammar.draft(text, plan).text) == (at, draft), text
    assert PatchGrammar().draft("", plan).text == OPENING, "before the image is known"


def test_when_it_is_done() -> None:
    grammar = PatchGrammar(VGA)
    a, b, c = map(point_token, (210, 726, 733))
    one = OPENING + a + b + c
    assert grammar.done(one, Plan(max_points=1)) and not grammar.done(one, Plan(max_points=2))
    assert not grammar.done(one, Plan()) and not grammar.done(one + "1", Plan(max_points=1, exact=True))
    assert grammar.done(one + "1" + a, Plan(max_points=1, exact=True))
    assert not grammar.done(one + "1" + point_token(725), Plan(max_points=1, exact=True))
    assert grammar.done(OPENING + TWO + point_token(725), Plan())
    assert grammar.done("There are none.", Plan()) and not grammar.done("There are", Plan())
    assert grammar.done(f"Counting the {ANSWER}", Plan())
    assert grammar.finish(one, "mugs") == f'{one}1{point_token(725)}">mugs</point>'
    assert grammar.finish(OPENING + TWO + point_token(725), "mugs") == ANSWER
    assert grammar.finish("There are none.", "mugs") == "There are none."


def tokens(*parts: tuple[str, float, dict[int, float]]) -> list[Token]:
    found, at = [], 0
    for text, probability, others in parts:
        found.append(Token(text, at, probability, {point_token(n): p for n, p in others.items()}))
        at += len(text)
    return found


def annotated(*parts: tuple[str, float, dict[int, float]]) -> tuple[ImagePoint, ...]:
    text = "".join(part[0] for part in parts)
    written = select_molmopoint(text, VGA)
    return annotate_patches(parse_molmopoint(text, VGA, 640, 480), written, tokens(*parts), VGA, 640, 480)


def test_confidence_by_hand() -> None:
    """Decisions times the probability of what is near; far alternatives count against it."""
    place = {730 + i: 1 / 9 for i in range(9)}
    (point,) = annotated(
        (OPENING, 0.9, {}), (point_token(460), 0.8, {460: 0.6, 461: 0.25, 210: 0.1, 725: 0.05}),
        (point_token(726), 0.7, {726: 0.7, 727: 0.3}), (point_token(734), 1 / 9, place), ("1", 0.99, {}),
    )  # fmt: skip
    # Token 461 lies beside 460 and is near; 210 is far, 725 says that there is none.
    assert point.confidence == pytest.approx(0.9 * 0.8 * (0.6 + 0.25))
    # The nearest of 461 is 2 - 0.495 patches to the right, of 727 it is 1 - 0.495; nothing lies below.
    step, third = 640 / 46, 0.33 * 640 / 46
    places = 0.6 * 0.7 * 2 / 3 * third**2
    square = 0.25 * (1.505 * step) ** 2 + 0.6 * 0.3 * (0.505 * step) ** 2 + places
    assert point.covariance[0, 0] == pytest.approx(1.35**2 * square / 0.85 + (step / 3) ** 2 / 12)
    assert point.covariance[0, 1] == pytest.approx(0)
    assert point.covariance[1, 1] < point.covariance[0, 0]


def test_confidence_falls_from_point_to_point() -> None:
    rest = [(point_token(n), 1.0, {n: 1.0}) for n in (726, 734)]
    first, second = ((point_token(n), p, {n: 1.0}) for n, p in ((460, 0.9), (470, 0.8)))
    one, two = annotated((OPENING, 0.9, {}), first, *rest, ("1", 1.0, {}), second, *rest, ("2", 1.0, {}))
    assert (one.confidence, two.confidence) == pytest.approx((0.81, 0.81 * 0.8))
    (slanted,) = annotated((OPENING, 0.9, {}), (point_token(460), 0.9, {460: 0.5, 484: 0.5}), *rest)
    assert slanted.covariance[0, 1] > 1, "down to the right"


def share(box: tuple[float, ...], mean: np.ndarray, sigma: float) -> float:
    """Of a round Gaussian (px of 640x480) that lies in a box (0..1)."""
    edges = [(box[0] * 640, box[2] * 640, mean[0]), (box[1] * 480, box[3] * 480, mean[1])]
    return math.prod(
        (math.erf((high - m) / sigma / 2**0.5) - math.erf((low - m) / sigma / 2**0.5)) / 2
        for low, high, m in edges
    )


@pytest.mark.parametrize("sigma", [3.0, 6.0, 12.0])
def test_covariance_of_a_model_that_knows_how_unsure_it_is(sigma: float) -> None:
    """Probabilities of tokens, patches and places are those of a Gaussian around a random point."""
    rng, found = np.random.default_rng(5), []
    for _ in range(20):
        mean = rng.uniform([150, 120], [490, 360])
        chosen: list[int] = []
        parts = []
        for kind in (range(196, 725), range(726, 730), range(730, 739)):
            boxes = {n: box_of(chosen, n) for n in kind}
            weights = {n: share(box, mean, sigma) for n, box in boxes.items()}
            total = sum(weights.values())
            chances = {n: w / total for n, w in weights.items() if w / total > 1e-4}
            chosen.append(max(chances, key=lambda n: chances[n]))
            parts.append((point_token(chosen[-1]), chances[chosen[-1]], chances))
        (point,) = annotated(*parts)
        assert np.hypot(point.x + 0.5 - mean[0], point.y + 0.5 - mean[1]) < 12
        found.append(math.sqrt(np.trace(point.covariance) / 2))
    assert 0.7 * sigma < np.mean(found) < 1.3 * sigma


def box_of(chosen: list[int], number: int) -> tuple[float, ...]:
    if not chosen:
        return VGA.token_box(number) or (0.0, 0.0, 0.0, 0.0)
    if len(chosen) == 1:
        return VGA.patch_box(chosen[0], number) or (0.0, 0.0, 0.0, 0.0)
    left, top, right, bottom = VGA.patch_box(*chosen) or (0.0, 0.0, 0.0, 0.0)
    column, row = divmod(number - 730, 3)
    width, height = (right - left) / 3, (bottom - top) / 3
    return left + column * width, top + row * height, left + (column + 1) * width, top + (row + 1) * height
