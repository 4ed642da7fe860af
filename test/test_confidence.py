"""Confidence and covariance against distributions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from molmo_ros.answer_format import points
from molmo_ros.answer_format.confidence import (
    NEAR,
    SIGMA_SCALE,
    Token,
    annotate,
    coordinate,
    decisions,
    sigma,
)


def tokens_of(text: str, probability: float = 1.0) -> list[Token]:
    """One token per character, each as probable."""
    return [Token(c, i, probability) for i, c in enumerate(text)]


def digit_tokens(value: str, masses: np.ndarray, width: int = 1) -> list[Token]:
    """The tokens of a three-digit number (``width`` digits each) under a distribution over 0 ... 999."""
    found = []
    for at in range(0, 3, width):
        prefix = value[:at]
        table = {}
        for digit in range(10**width):
            head = prefix + f"{digit:0{width}d}"
            size = 10 ** (3 - len(head))
            table[head[at:]] = float(masses[int(head) * size : (int(head) + 1) * size].sum())
        total = sum(table.values())
        table = {k: v / total for k, v in table.items()}
        piece = value[at : at + width]
        found.append(Token(piece, at, table[piece], table))
    return found


def gaussian(mean: float, spread: float) -> np.ndarray:
    masses = np.exp(-0.5 * ((np.arange(1000) - mean) / spread) ** 2)
    return masses / masses.sum()


def greedy(masses: np.ndarray, width: int = 1) -> str:
    value = ""
    while len(value) < 3:
        size = 10 ** (3 - len(value) - width)
        start = int(value or 0) * size * 10**width
        heads = masses[start : start + size * 10**width].reshape(10**width, size).sum(axis=1)
        value += f"{int(heads.argmax()):0{width}d}"
    return value


@pytest.mark.parametrize("mean", [300, 299.6, 457, 512, 95])
@pytest.mark.parametrize("spread", [3, 6, 12, 25])
def test_variance_of_a_gaussian(mean: float, spread: float) -> None:
    """Also where a digit turns over: 299 | 300 differ in all digits, yet are neighbours."""
    masses = gaussian(mean, spread)
    near, variance = coordinate(digit_tokens(greedy(masses), masses), (0, 3))
    assert near > 0.99
    assert 0.6 * spread < SIGMA_SCALE * variance**0.5 < 2.0 * spread


def test_variance_with_three_digit_tokens() -> None:
    """Tokenizers that keep three digits together give the distribution at once, without its bias."""
    masses = gaussian(457, 12)
    near, variance = coordinate(digit_tokens("457", masses, width=3), (0, 3))
    assert near == pytest.approx(1, abs=1e-6) and variance**0.5 == pytest.approx(12, rel=0.01)


def test_two_candidates_share_the_confidence() -> None:
    """700 with 60 %, 200 with 40 %: the far one takes confidence, not precision."""
    masses = 0.6 * gaussian(700, 2) + 0.4 * gaussian(200, 2)
    near, variance = coordinate(digit_tokens(greedy(masses), masses), (0, 3))
    assert near == pytest.approx(0.6, abs=0.02) and variance**0.5 < NEAR / 10


def test_per_cent_with_a_decimal_is_per_mille() -> None:
    """61.5 under the distribution of 615; the point itself is certain."""
    masses = gaussian(615, 6)
    digits = digit_tokens("615", masses)
    tokens = [*digits[:2], Token(".", 2, 1.0), Token(digits[2].text, 3, digits[2].probability,
                                                     digits[2].alternatives)]  # fmt: skip
    assert coordinate(tokens, (0, 4)) == pytest.approx(coordinate(digits, (0, 3)))
    assert coordinate(tokens, (0, 4))[1] > 9


def test_certain_number() -> None:
    assert coordinate(digit_tokens("308", np.eye(1000)[308]), (0, 3)) == (pytest.approx(1), pytest.approx(0))


def test_token_with_more_than_digits() -> None:
    tokens = [Token(" 30", 0, 0.5), Token("8", 3, 0.5, {"8": 0.5, "9": 0.5})]
    assert coordinate(tokens, (1, 4)) == (0.25, 0.0)


TEXT = '<points coords="1 1 308 305 2 752 377">mugs</points>'


def test_decisions_before_a_point() -> None:
    """First token, then per point what is not a coordinate; earlier coordinates do not count."""
    written = points.scan_molmo2(TEXT)
    spans = [s for p in written for s in (p.x_span, p.y_span)]
    tokens = [Token(t.text, t.start, 1.0, t.alternatives) for t in tokens_of(TEXT)]
    tokens[0] = Token("<", 0, 0.9)
    more = TEXT.index(" 2 752")
    tokens[more] = Token(" ", more, 0.5)
    tokens[written[0].x_span[0]] = Token("3", written[0].x_span[0], 0.1)
    assert [decisions(tokens, p, spans) for p in written] == pytest.approx([0.9, 0.45])


def test_decision_not_to_say_none_in_a_sentence() -> None:
    text = "Counting the " + TEXT
    (first, _) = points.scan_molmo2(text)
    tokens = tokens_of(text)
    tokens[0], tokens[5] = Token("C", 0, 0.8), Token("i", 5, 0.1)  # the words between are mere wording
    assert decisions(tokens, first, [first.x_span]) == pytest.approx(0.8)


def test_annotated_points() -> None:
    parsed = points.parse_molmo2(TEXT, 640, 480)
    certain = annotate(parsed, points.select_molmo2(TEXT), tokens_of(TEXT), 640, 480)
    assert [(p.x, p.y, p.label, p.instance) for p in certain] == [
        (p.x, p.y, p.label, p.instance) for p in parsed
    ]
    for point in certain:
        assert point.confidence == 1.0
        assert sigma(point.covariance) == pytest.approx((12**-0.5, 12**-0.5))  # of rounding to a pixel
    wide = annotate(
        points.parse_molmo2(TEXT, 3000, 480), points.select_molmo2(TEXT), tokens_of(TEXT), 3000, 480
    )
    assert sigma(wide[0].covariance)[0] == pytest.approx(3 * 12**-0.5)  # of rounding to a per mille
