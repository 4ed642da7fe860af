"""Answers as the models write them, for the tests of what reads, drafts and completes them."""

from __future__ import annotations

from collections.abc import Sequence

from molmo_ros.answer_format.grammar import Format
from molmo_ros.answer_format.patches import PatchMap, point_token
from molmo_ros.answer_format.points import format_molmo2
from molmo_ros.datatypes import ImagePoint


def written(form: Format, points: list[tuple[int, int]], label: str) -> str:
    """The official answer with points in per mille, sorted by x, then y."""
    if form is Format.MOLMO2:
        return format_molmo2(points, label)
    if len(points) == 1:
        ((x, y),) = points
        return f' <point x="{x / 10:.1f}" y="{y / 10:.1f}" alt="{label}">{label}</point>'
    body = " ".join(f'x{i}="{x / 10:.1f}" y{i}="{y / 10:.1f}"' for i, (x, y) in enumerate(points, 1))
    return f' <points {body} alt="{label}">{label}</points>'


def written_in_tokens(
    points: Sequence[ImagePoint], label: str, places: PatchMap, width: int, height: int
) -> str:
    """The answer of MolmoPoint with points in px: sorted by their tokens, ids from 1, then "no more"."""
    named = sorted(_numbers(places, (p.x + 0.5) / width, (p.y + 0.5) / height) for p in points)
    body = "".join("".join(map(point_token, n)) + str(i) for i, n in enumerate(named, start=1))
    return f'<points coords="{body}{point_token(places.no_more)}">{label}</point>'


def _numbers(places: PatchMap, x: float, y: float) -> tuple[int, int, int]:
    """The three numbers that name the place nearest to x, y (0..1)."""
    along, down = x * places.patches[1], y * places.patches[0]
    column = min(max(int(along), 0), places.patches[1] - 1)
    row = min(max(int(down), 0), places.patches[0] - 1)
    token = row // places.window[0] * places.tokens[1] + column // places.window[1] + places.low
    slot = row % places.window[0] * places.window[1] + column % places.window[1]
    thirds = [min(max(round(v / 0.33 - 0.5), 0), 2) for v in (along - column, down - row)]
    patch = places.no_more + 1 + slot
    return token, patch, places.no_more + 1 + places.slots + 3 * thirds[0] + thirds[1]
