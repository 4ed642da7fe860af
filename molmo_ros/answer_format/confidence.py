"""How sure the model was of a point, from the probabilities seen while its answer was decoded.

A coordinate is written digit by digit. Along the greedy path each digit has alternatives; each alternative
is completed with the digits that bring it nearest to the decoded value (from 300, the alternative first
digit 2 means 299, not 200). Those values and their probabilities give the variance of the coordinate;
those that are near give the probability that this place is meant, and not another.

MolmoPoint chooses a token, a patch and a place instead; there an alternative is completed with the point of
its part of the image that is nearest to the decoded one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from molmo_ros.answer_format.patches import Box, PatchMap, PatchPoint, point_token
from molmo_ros.answer_format.points import Span, TextPoint
from molmo_ros.datatypes import Array, ImagePoint

# Alternatives farther off than this, in per mille of the image, mean another thing.
NEAR = 75
# The variance of nearest completions falls short of the true one by about this factor squared.
SIGMA_SCALE = 1.35


@dataclass(frozen=True)
class Token:
    """One generated token: its place in the text, its probability, and those of numbers in its place.

    Of MolmoPoint's tokens: how probable each <POINT_k> of this kind was, given that it had to be one.
    """

    text: str
    start: int
    probability: float
    alternatives: Mapping[str, float] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    def overlaps(self, span: Span) -> bool:
        return self.start < span[1] and span[0] < self.end


def annotate(
    parsed: Sequence[ImagePoint],
    written: Sequence[TextPoint],
    tokens: Sequence[Token],
    width: int,
    height: int,
) -> tuple[ImagePoint, ...]:
    """The parsed points with confidence (0..1) and covariance (2,2) px^2, diagonal in x and y.

    ``written`` are the same points as they stand in the text.
    """
    coordinates = [span for p in written for span in (p.x_span, p.y_span)]
    annotated = []
    for point, text in zip(parsed, written, strict=True):
        x_near, x_variance = coordinate(tokens, text.x_span)
        y_near, y_variance = coordinate(tokens, text.y_span)
        confidence = decisions(tokens, text, coordinates) * x_near * y_near
        covariance = np.diag([_pixels(x_variance, width), _pixels(y_variance, height)])
        annotated.append(
            ImagePoint(point.x, point.y, point.label, point.instance, min(confidence, 1.0), covariance)
        )
    return tuple(annotated)


def coordinate(tokens: Sequence[Token], span: Span) -> tuple[float, float]:
    """(probability of the neighbourhood of the decoded value, variance there) of the number at ``span``.

    Per cent with one decimal, as v1 writes it, is per mille with a point in it, and counted as such.
    """
    within = [t for t in tokens if t.overlaps(span)]
    digits = [t for t in within if t.text != "."]
    number = "".join(t.text for t in digits)
    point = "".join(t.text for t in within).find(".")
    whole = len(number) == span[1] - span[0] if point < 0 else point == len(number) - 1
    if not (number.isdigit() and whole):
        # A token that holds more than digits has no alternatives to compare it with.
        return math.prod(t.probability for t in within), 0.0
    value, path, prefix = int(number), 1.0, ""
    near, square = 0.0, 0.0
    for token in digits:
        rest = 10 ** (len(number) - len(prefix) - len(token.text))
        for other, probability in token.alternatives.items():
            if other == token.text or len(other) != len(token.text):
                continue
            lowest = int(prefix + other) * rest
            distance = abs(min(max(value, lowest), lowest + rest - 1) - value)
            if distance <= NEAR:
                near += path * probability
                square += path * probability * distance**2
        path *= token.probability
        prefix += token.text
    near += path
    return min(near, 1.0), square / near if near > 0 else 0.0


def decisions(tokens: Sequence[Token], point: TextPoint, coordinates: Sequence[Span]) -> float:
    """Probability that the model writes this point at all.

    The first token (points, or "There are none"), and all tokens of the tag up to the point that are not
    coordinates: among them, after each earlier point, the choice of one more.
    """
    before = (point.tag_start, point.x_span[0])
    chosen = [
        t.probability
        for i, t in enumerate(tokens)
        if i == 0 or (t.overlaps(before) and not any(t.overlaps(span) for span in coordinates))
    ]
    return math.prod(chosen)


def annotate_patches(
    parsed: Sequence[ImagePoint],
    written: Sequence[PatchPoint],
    tokens: Sequence[Token],
    places: PatchMap,
    width: int,
    height: int,
) -> tuple[ImagePoint, ...]:
    """As `annotate`, for the points of MolmoPoint; their covariance has no reason to be diagonal."""
    at = {token.start: i for i, token in enumerate(tokens)}
    chosen = {span[0] for point in written for span in point.spans[1:]}  # patches and places: no decisions
    size = np.array([width, height], dtype=np.float64)
    annotated = []
    for image, text in zip(parsed, written, strict=True):
        steps = [at.get(span[0]) for span in text.spans]
        decided = [
            t.probability
            for i, t in enumerate(tokens)
            if i == 0 or (t.overlaps((text.tag_start, text.spans[0][1])) and t.start not in chosen)
        ]
        near, spread = 1.0, np.zeros((2, 2))
        if None not in steps:
            near, spread = _neighbourhood([tokens[i] for i in steps if i is not None], text, places)
        confidence = min(math.prod(decided) * near, 1.0)
        third = size / places.patches[::-1] / 3
        rounding = np.diag(np.maximum(third, 1.0) ** 2) / 12
        covariance = SIGMA_SCALE**2 * spread * np.outer(size, size) + rounding
        annotated.append(ImagePoint(image.x, image.y, image.label, image.instance, confidence, covariance))
    return tuple(annotated)


def _neighbourhood(
    steps: Sequence[Token], point: PatchPoint, places: PatchMap
) -> tuple[float, npt.NDArray[np.float64]]:
    """(probability that a point near to the chosen one is meant, second moments there), in 0..1 of the image.

    ``steps``: the tokens that chose image token, patch and place.
    """
    token, patch, place = point.numbers
    x, y = places.place(token, patch, place) or (0.0, 0.0)

    def spot(number: int) -> Box | None:
        at = places.place(token, patch, number)
        return None if at is None else (*at, *at)

    parts: list[Callable[[int], Box | None]] = [places.token_box, partial(places.patch_box, token), spot]
    path, near, square = 1.0, 0.0, np.zeros((2, 2))
    for step, number, part in zip(steps, point.numbers, parts, strict=True):
        for text, probability in step.alternatives.items():
            other = int(text.strip("<POINT_>"))
            box = part(other)
            if other == number or box is None:
                continue
            offset = np.array([min(max(x, box[0]), box[2]) - x, min(max(y, box[1]), box[3]) - y])
            if np.hypot(*offset) <= NEAR / 1000:
                near += path * probability
                square += path * probability * np.outer(offset, offset)
        path *= step.alternatives.get(point_token(number), step.probability)
    near += path
    return min(near, 1.0), square / near if near > 0 else square


def _pixels(variance: float, size: int) -> float:
    """px^2 from per mille^2, plus that of rounding to a per mille or to a pixel, whichever is coarser."""
    scale = size / 1000
    return float(SIGMA_SCALE**2 * variance * scale**2 + max(scale, 1.0) ** 2 / 12)


def sigma(covariance: Array) -> tuple[float, float]:
    """Standard deviations in x and y, px."""
    return float(covariance[0, 0]) ** 0.5, float(covariance[1, 1]) ** 0.5
