"""Points of a Molmo2 answer about a video: with seconds, and with ids that recur where it tracks.

``<points coords="0.5 1 308 305;1.0 2 752 377">dog</points>`` names each thing once, ids rise over the answer;
``<tracks coords="0.0 1 308 305 2 752 377;0.5 1 310 305">dog</tracks>`` names it by the same id at each time.
The node asks about one image at a time and needs only what lies in that (``points.select_molmo2``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from molmo_ros.answer_format.points import from_unit, scan_molmo2


@dataclass(frozen=True)
class VideoPoint:
    """x, y px of a frame, (0, 0) at the centre of its top-left pixel; time_s from the start of the video.

    number: the id that the model gave; tracked: the same id is the same thing at other times.
    """

    time_s: float
    number: int
    x: float
    y: float
    label: str
    tracked: bool


def parse_video(text: str, width: int, height: int) -> tuple[VideoPoint, ...]:
    """Points of an answer about a video of width x height px, in text order.

    Values above 1000, groups without a decimal (those are images), and an id that comes a second time at one
    moment are dropped, as by the official parser. A tag that was cut off yields its complete triples.
    Never raises.
    """
    found: dict[tuple[int, str, int], VideoPoint] = {}
    for p in scan_molmo2(text):
        key = (p.tag_start, p.group, p.number)
        if "." not in p.group or max(p.x, p.y) > 1000 or key in found:
            continue
        x, y = from_unit(p.x, width, 1000), from_unit(p.y, height, 1000)
        found[key] = VideoPoint(float(p.group), p.number, x, y, p.label, p.tracked)
    return tuple(found.values())


def tracks(points: Iterable[VideoPoint]) -> dict[tuple[str, int], tuple[VideoPoint, ...]]:
    """(label, id) -> the points of each thing that is tracked, in the order of their times."""
    found: dict[tuple[str, int], list[VideoPoint]] = {}
    for point in points:
        if point.tracked:
            found.setdefault((point.label, point.number), []).append(point)
    return {key: tuple(sorted(some, key=lambda p: p.time_s)) for key, some in found.items()}
