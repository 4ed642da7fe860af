"""Points as Gemini Robotics-ER writes them: ``[{"point": [y, x], "label": "red mug"}, ...]``, per mille.

y comes first, both are whole numbers from 0 to 1000 of height and width; the list may be fenced by three
backquotes. Nothing else is read: no prose around it, no boxes. An entry of another form ends the list; one
whose values are above 1000 is dropped; a list that the token limit cut off yields its complete entries.
``[]`` says that nothing is there (``points.is_denial``).

Source of the format: Google's documentation of the model ("spatial understanding").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from molmo_ros.answer_format.grammar import Plan
from molmo_ros.answer_format.points import TextPoint, from_unit, plain_label
from molmo_ros.datatypes import ImagePoint

MAX_LABEL = 200
_OPEN = re.compile(r"\s*(?:```(?:json)?\s*)?\[\s*")
_POINT = r'"point"\s*:\s*\[\s*(?P<y{n}>[0-9]{{1,4}})\s*,\s*(?P<x{n}>[0-9]{{1,4}})\s*\]'
_LABEL = r'"label"\s*:\s*(?P<label{n}>"(?:[^"\\\x00-\x1f]|\\.){{0,200}}")'
_ENTRY = re.compile(
    r"\{\s*(?:"
    + _POINT.format(n=1) + r"(?:\s*,\s*" + _LABEL.format(n=1) + r")?"
    + "|" + _LABEL.format(n=2) + r"\s*,\s*" + _POINT.format(n=2)
    + r")\s*\}\s*"
)  # fmt: skip
_NEXT = re.compile(r",\s*")
_INSTRUCTION = (
    ' Answer with a JSON list alone, [{"point": [y, x], "label": "what it is"}, ...], where y and x are '
    "whole numbers from 0 to 1000 of the height and width of the image; [] if it is not in the image."
)


@dataclass(frozen=True)
class JsonGrammar:
    """What the runtime remote needs of a grammar, for this format."""

    tokens_per_molmo: int = 4  # a point takes about this many times the tokens that Molmo2 takes

    def instruct(self, prompt: str) -> str:
        """The prompt with the format that is wanted: the model does not point by itself."""
        return prompt + _INSTRUCTION

    def scan(self, text: str) -> tuple[TextPoint, ...]:
        """The points of a text that lie in the image, in per mille."""
        return tuple(p for p in _entries(text) if p.x <= 1000 and p.y <= 1000)

    def parse(self, text: str, width: int, height: int) -> tuple[ImagePoint, ...]:
        """The same in pixels of an image of width x height px. Never raises."""
        return tuple(
            ImagePoint(from_unit(p.x, width, 1000), from_unit(p.y, height, 1000), p.label, instance=i)
            for i, p in enumerate(self.scan(text), start=1)
        )

    def done(self, text: str, plan: Plan) -> bool:
        """True once nothing that was asked for can follow: the list is closed, or has all its points."""
        if plan.max_points is not None and len(self.scan(text)) >= plan.max_points:
            return True
        end = _end(text)
        return end is not None and text[end : end + 1] == "]"

    def finish(self, text: str, label: str) -> str:
        """``text`` as it is: each complete entry has its closing."""
        return text


def _entries(text: str) -> Iterator[TextPoint]:
    start = _OPEN.match(text)
    at = start.end() if start else len(text)
    while entry := _ENTRY.match(text, at):
        n = 1 if entry["y1"] else 2
        yield TextPoint(
            x=float(entry[f"x{n}"]),
            y=float(entry[f"y{n}"]),
            label=_label(entry[f"label{n}"]),
            x_span=entry.span(f"x{n}"),
            y_span=entry.span(f"y{n}"),
            tag_start=entry.start(),
        )
        comma = _NEXT.match(text, entry.end())
        if comma is None:
            return
        at = comma.end()


def _end(text: str) -> int | None:
    """Where the last complete entry of a list ends, or its bracket if it has none; None: no list has
    begun."""
    start = _OPEN.match(text)
    if start is None:
        return None
    at = start.end()
    while entry := _ENTRY.match(text, at):
        at = entry.end()
        if comma := _NEXT.match(text, at):
            at = comma.end()
    return at


def _label(quoted: str | None) -> str:
    try:
        return plain_label(json.loads(quoted))[:MAX_LABEL] if quoted else ""
    except ValueError:  # an invalid escape
        return ""
