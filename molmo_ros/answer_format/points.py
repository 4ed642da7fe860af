"""Points in the text of an answer: one strict parser per model generation, and a formatter of Molmo2's.

Both generations write coordinates relative to the whole original image, as per mille (Molmo2) or per cent
(Molmo v1) of width and height, measured from its outer top-left corner. Our pixels have (0, 0) at the
*centre* of the top-left pixel, hence x_px = v / 1000 * width - 0.5, clamped to 0 ... width - 1.

Molmo2 writes ``<points coords="1 1 308 305 2 752 377">mug</points>``: groups separated by ``;`` (or a tab in
older checkpoints), each an image index followed by triples "id x y"; ids rise over the whole answer. About a
video it writes seconds (``0.0``) for the index, and ``<tracks ...>`` where ids recur (``video``).
v1 writes ``<point x="61.5" y="40.4" alt="mug">mug</point>`` and ``<points x1="10.0" y1="20.5" x2=... >``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from molmo_ros.datatypes import ImagePoint

NONE_ANSWER = "There are none."

# How a model says, in one whole sentence, that what was asked for is not there.
_DENIAL = re.compile(
    r"(?:there (?:are|is|was|were) (?:none|no|not any|nothing)\b|there (?:are|is|was|were)n't any\b"
    r"|(?:this|that|it|they|the|these|those|no|none)\b[^.!?<>]{0,100}\b(?:are|is|was|were|can|could)"
    r"(?:n't| not|not)\b"
    r"|i (?:do not|don't|cannot|can't|could not|couldn't) (?:see|find|locate|identify)\b"
    r"|(?:no|none)\b[^.!?<>]{0,100}\b(?:is|are|was|were|visible|found|here|there|image|picture)\b"
    r"|nothing\b|none\b)[^.!?<>]{0,100}[.!]?",
    re.IGNORECASE,
)

_EMPTY_LIST = re.compile(r"(?:```(?:json)?\s*)?\[\s*\](?:\s*```)?")

# An opening tag may be cut off by the token limit, so its attributes are read one by one, not as a whole.
_TAG = re.compile(r"<(points?|tracks)(?=\s)")
_ATTRIBUTE = re.compile(r'\s+([a-z][a-z0-9]*)="([^"]*)("?)')
_GROUP = re.compile(r"(?:^|[\t:,;])\s*([0-9]+(?:\.[0-9]+)?)(?= )")
_TRIPLE = re.compile(r" ([0-9]+) ([0-9]{3,4}) ([0-9]{3,4})(?![0-9.])")
_PAIR_NAME = re.compile(r"x([0-9]*)")
_PERCENT = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,4})?")

Span = tuple[int, int]


@dataclass(frozen=True)
class TextPoint:
    """One point as written: x, y in the generation's units, and where in the text each number stands.

    group: the image index or the seconds; number: its id; tracked: ids name the same thing at other times.
    """

    x: float
    y: float
    label: str
    x_span: Span
    y_span: Span
    tag_start: int
    group: str = "1"
    number: int = 0
    tracked: bool = False


def is_denial(text: str) -> bool:
    """Whether ``text`` is one sentence that says "not there", or an empty JSON list.

    Text that is cut off or garbled is not a denial.
    """
    if _EMPTY_LIST.fullmatch(text.strip()):
        return True
    return _DENIAL.fullmatch(" ".join(text.split()).replace("\u2019", "'")) is not None


def parse_molmo2(text: str, width: int, height: int) -> tuple[ImagePoint, ...]:
    """Points of a Molmo2 answer about one image of width x height px, in text order.

    Values above 1000 and points of other images are dropped; a tag that the token limit cut off still
    yields its complete triples. Never raises: text without a point gives ().
    """
    return _to_pixels(select_molmo2(text), 1000, width, height)


def select_molmo2(text: str) -> tuple[TextPoint, ...]:
    """The points of ``text`` that are inside the first image, still in per mille.

    A model of videos may call the image by its time, 0.0 s; later times belong to frames that do not exist
    here.
    """
    first = [p for p in scan_molmo2(text) if p.group == "1" or ("." in p.group and float(p.group) == 0)]
    return tuple(p for p in first if p.x <= 1000 and p.y <= 1000)


def scan_molmo2(text: str) -> tuple[TextPoint, ...]:
    """Every triple "id x y" of every tag of a Molmo2 answer, with the text spans of x and y."""
    found: list[TextPoint] = []
    for tag in tags(text):
        value, start, closed = tag.attributes.get("coords", ("", 0, True))
        for group, match in _triples(value, closed):
            found.append(
                TextPoint(
                    x=float(match[2]),
                    y=float(match[3]),
                    label=tag.label,
                    x_span=(start + match.start(2), start + match.end(2)),
                    y_span=(start + match.start(3), start + match.end(3)),
                    tag_start=tag.start,
                    group=group,
                    number=int(match[1]),
                    tracked=tag.name == "tracks",
                )
            )
    return tuple(found)


def parse_molmo1(text: str, width: int, height: int) -> tuple[ImagePoint, ...]:
    """Points of a Molmo v1 answer, in text order; pairs with a value above 100 are dropped. Never raises."""
    return _to_pixels(select_molmo1(text), 100, width, height)


def select_molmo1(text: str) -> tuple[TextPoint, ...]:
    """The points of ``text`` that are inside the image, still in per cent."""
    return tuple(p for p in scan_molmo1(text) if p.x <= 100 and p.y <= 100)


def scan_molmo1(text: str) -> tuple[TextPoint, ...]:
    """Every pair x, y of every tag of a v1 answer, with the text spans of x and y."""
    found: list[TextPoint] = []
    for tag in tags(text):
        for name, (value, start, closed) in tag.attributes.items():
            pair = _PAIR_NAME.fullmatch(name)
            if pair is None or not closed or not _PERCENT.fullmatch(value):
                continue
            y_value, y_start, y_closed = tag.attributes.get("y" + pair[1], ("", 0, False))
            if y_closed and _PERCENT.fullmatch(y_value):
                found.append(
                    TextPoint(
                        x=float(value),
                        y=float(y_value),
                        label=tag.label,
                        x_span=(start, start + len(value)),
                        y_span=(y_start, y_start + len(y_value)),
                        tag_start=tag.start,
                    )
                )
    return tuple(found)


def format_molmo2(points: Sequence[tuple[int, int]], label: str) -> str:
    """The answer that Molmo2 would give for (x, y) in per mille: sorted, ids from 1; NONE_ANSWER for ()."""
    if not points:
        return NONE_ANSWER
    body = " ".join(f"{i} {x:03d} {y:03d}" for i, (x, y) in enumerate(sorted(points), start=1))
    return f'<points coords="1 {body}">{plain_label(label)}</points>'


def format_count_molmo2(points: Sequence[tuple[int, int]], label: str) -> str:
    """The counting answer of Molmo2: the points inside a sentence that states their number."""
    if not points:
        return NONE_ANSWER
    return f"Counting the {format_molmo2(points, label)} shows a total of {len(points)}."


@dataclass(frozen=True)
class Tag:
    """An opening tag: attributes as name -> (value, its start in the text, closed by a quote)."""

    start: int
    label: str
    attributes: dict[str, tuple[str, int, bool]]
    name: str = "points"


def tags(text: str) -> Iterator[Tag]:
    """Every opening tag of an answer, whole or cut off."""
    for match in _TAG.finditer(text):
        attributes: dict[str, tuple[str, int, bool]] = {}
        end = match.end()
        while attribute := _ATTRIBUTE.match(text, end):
            attributes.setdefault(attribute[1], (attribute[2], attribute.start(2), bool(attribute[3])))
            end = attribute.end()
        yield Tag(match.start(), _label(text, end, match[1], attributes), attributes, match[1])


def _label(text: str, end: int, name: str, attributes: dict[str, tuple[str, int, bool]]) -> str:
    """The text between the tags, or the alt attribute where the answer was cut off before it."""
    opened = re.compile(r"\s*/?>").match(text, end)
    if opened:
        inner = text[opened.end() :].split("</", 1)[0].split("<" + name, 1)[0].strip()
        if inner and text[opened.end() - 2] != "/":
            return inner
    alt, _, closed = attributes.get("alt", ("", 0, False))
    return alt.strip() if closed else ""


def _triples(value: str, closed: bool) -> Iterator[tuple[str, re.Match[str]]]:
    """The triples of a coords attribute, each with its group; one that was cut off may be incomplete."""
    for group, begin, end in _groups(value):
        for match in _TRIPLE.finditer(value, begin, end):
            if closed or match.end() < len(value) or match[3] != "100":  # could be the beginning of 1000
                yield group, match


def _groups(value: str) -> Iterator[tuple[str, int, int]]:
    """(image index or time, begin, end) of each group; begin is after the index, so that it is not taken for
    a point id."""
    heads = list(_GROUP.finditer(value))
    ends = [*(head.start() for head in heads[1:]), len(value)]
    for head, end in zip(heads, ends, strict=False):
        yield head[1], head.end(), end


def _to_pixels(found: Iterable[TextPoint], unit: int, width: int, height: int) -> tuple[ImagePoint, ...]:
    return tuple(
        ImagePoint(from_unit(p.x, width, unit), from_unit(p.y, height, unit), p.label, instance=i)
        for i, p in enumerate(found, start=1)
    )


def from_unit(value: float, size: int, unit: int) -> float:
    """0..unit of the image -> px, (0, 0) at the centre of the top-left one, kept inside the image."""
    return min(max(value / unit * size - 0.5, 0.0), float(size - 1))


def plain_label(label: str) -> str:
    """A label that cannot open or close a tag."""
    return label.replace("<", " ").replace(">", " ").strip()
