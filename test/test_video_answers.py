"""Answers with seconds and ids, as Molmo2 writes them about videos; the numbers are its own parser's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo_ros.answer_format.points import parse_molmo2
from molmo_ros.answer_format.video import VideoPoint, parse_video, tracks

TRACKS = '<tracks coords="0.0 1 308 305 2 752 377;0.5 1 310 305;1.0 1 312 306 2 760 380">dog</tracks>'


def _written(points: tuple[VideoPoint, ...]) -> list[tuple[float, int, int, int]]:
    """(seconds, id, x, y) with x and y back in per mille; the image is 1000x1000 px."""
    return [(p.time_s, p.number, round(p.x + 0.5), round(p.y + 0.5)) for p in points]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<points coords="0.5 1 308 305;12.0 2 752 377 3 760 380">dog</points>',
         [(0.5, 1, 308, 305), (12.0, 2, 752, 377), (12.0, 3, 760, 380)]),
        (TRACKS,
         [(0.0, 1, 308, 305), (0.0, 2, 752, 377), (0.5, 1, 310, 305), (1.0, 1, 312, 306),
          (1.0, 2, 760, 380)]),
        ('<tracks coords="0.5 1 308 305\t1.0 1 310 310">old separator</tracks>',
         [(0.5, 1, 308, 305), (1.0, 1, 310, 310)]),
        ('<tracks coords="0.5 1 308 305 1 400 400">twice at once</tracks>', [(0.5, 1, 308, 305)]),
        ('<points coords="0.5 1 1001 305 2 500 500">outside</points>', [(0.5, 2, 500, 500)]),
        ('<points coords="1 1 308 305;2 2 400 400">images, not seconds</points>', []),
        ('<tracks coords="0.5 1 308 305 2 75', [(0.5, 1, 308, 305)]),
        ("There are none.", []),
        ("", []),
    ],
)  # fmt: skip
def test_seconds_and_ids_are_read(text: str, expected: list[tuple[float, int, int, int]]) -> None:
    assert _written(parse_video(text, 1000, 1000)) == expected


def test_pixels_have_their_centre_at_zero() -> None:
    (point,) = parse_video('<points coords="0.5 1 500 250">dog</points>', 640, 480)
    assert (point.x, point.y, point.label, point.tracked) == (319.5, 119.5, "dog", False)


def test_tracks_follow_each_thing_by_its_id() -> None:
    found = tracks(parse_video(TRACKS + ' <points coords="0.5 7 100 100">cat</points>', 1000, 1000))
    assert {key: [p.time_s for p in some] for key, some in found.items()} == {
        ("dog", 1): [0.0, 0.5, 1.0],
        ("dog", 2): [0.0, 1.0],
    }


def test_an_image_is_the_first_moment_of_a_video() -> None:
    points = parse_molmo2(TRACKS, 1000, 1000)
    assert [(p.x, p.y, p.instance) for p in points] == [(307.5, 304.5, 1), (751.5, 376.5, 2)]
    assert parse_molmo2('<points coords="0.5 1 308 305">later</points>', 1000, 1000) == ()
    assert len(parse_molmo2('<points coords="0.0 1 308 305;0.5 2 1 1">x</points>', 10, 10)) == 1


@given(st.text(alphabet='<points tracks="coords 0.5;123\t>/', max_size=120))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    for point in parse_video(text, 640, 480):
        assert 0 <= point.x <= 639 and 0 <= point.y <= 479
