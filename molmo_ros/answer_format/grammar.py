"""The grammar of pointing answers, one per model generation: what comes next in an unfinished answer.

An answer is a row of numbers (x, y, x, y, ...) with fixed text before each of them, closed by a label::

    Molmo2  <points coords="1 1 308 305 2 752 377">mugs</points>
    v1      <point x="61.5" y="40.4" alt="mug">mug</point>  or  <points x1="10.0" y1="20.5" x2="64.1" ...

`Grammar.draft` says what text comes next: what the format fixes, and where it leaves a choice that is
nearly always made the same way, a guess. Drafts are only proposals: the decoder keeps the part of them that
the model itself would have written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from molmo_ros.answer_format.confidence import Token, annotate
from molmo_ros.answer_format.points import (
    NONE_ANSWER,
    TextPoint,
    parse_molmo1,
    parse_molmo2,
    select_molmo1,
    select_molmo2,
)
from molmo_ros.datatypes import ImagePoint

# What may follow where a number follows; tokens differ between them if a tokenizer joins text and digits.
_NUMBERS = tuple(digit * 3 for digit in "0123456789")
_TAG = re.compile(r"<(?:points?|tracks)\s[^>]*>")


class Format(Enum):
    """How a generation writes points as text."""

    MOLMO1 = "molmo1"
    MOLMO2 = "molmo2"


class At(Enum):
    """Where in an answer the text ends."""

    START = "nothing is written yet"
    LITERAL = "in the fixed text before a number"
    NUMBER = "in a number, or behind one that could have one more digit"
    CHOICE = "behind a point: another one, or the end"
    CLOSING = "behind the last point"
    ELSEWHERE = "in text that this grammar does not describe"


@dataclass(frozen=True)
class State:
    """``number``: how many numbers are complete; ``written``: what comes after them."""

    at: At
    opening: str = ""
    number: int = 0
    written: str = ""


@dataclass(frozen=True)
class Draft:
    """Text that probably comes next, and what may follow it, so that tokens can be cut where all agree."""

    text: str = ""
    followers: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Plan:
    """What is wanted of one answer.

    ``label``: what the model will probably write between the tags; ``exact``: the whole greedy text is
    wanted, label and all; ``previous``: the numbers of an answer that this one is probably near to;
    ``foreseen``: those that the model itself thought likely, read after a draft that was wrong.
    """

    label: str = ""
    max_points: int | None = None
    exact: bool = False
    previous: tuple[str, ...] = ()
    foreseen: tuple[str, ...] = ()

    @property
    def likely(self) -> tuple[str, ...]:
        """The numbers as far as they can be guessed."""
        return self.previous or self.foreseen

    def wants_more(self, numbers: int) -> bool:
        """Whether another point is to be expected after this many numbers."""
        if self.previous:
            return numbers < len(self.previous)
        return self.max_points is None or numbers // 2 < self.max_points


@dataclass(frozen=True)
class Grammar:
    """The pointing answers of one generation."""

    format: Format

    @property
    def openings(self) -> tuple[str, ...]:
        """All ways in which an answer with points begins, the most frequent first."""
        if self.format is Format.MOLMO2:
            return ('<points coords="1 1 ',)
        return ('<point x="', '<points x1="')

    def before(self, opening: str, number: int) -> str:
        """The fixed text before a number, counted from 0; "" where the format has no further number."""
        y, instance = number % 2, number // 2 + 1
        if number == 0:
            return opening
        if self.format is Format.MOLMO2:
            return " " if y else f" {instance} "
        if opening == self.openings[0]:
            return '" y="' if number == 1 else ""
        return f'" y{instance}="' if y else f'" x{instance}="'

    def closing(self, opening: str, label: str) -> str:
        """What follows the last number, down to the end of the tag."""
        if self.format is Format.MOLMO2:
            return f'">{label}</points>'
        tag = "point" if opening == self.openings[0] else "points"
        return f'" alt="{label}">{label}</{tag}>'

    def complete(self, value: str) -> bool:
        """True if ``value`` is a whole coordinate."""
        pattern = r"\d{3,4}" if self.format is Format.MOLMO2 else r"\d{1,3}\.\d+"
        return re.fullmatch(pattern, value) is not None

    def may_grow(self, value: str) -> bool:
        """True if a whole coordinate may be the beginning of another: 100 of 1000."""
        return self.format is Format.MOLMO2 and value == "100"

    def scan(self, text: str) -> tuple[TextPoint, ...]:
        """The points of a text that lie in the image, in units of the generation."""
        return select_molmo2(text) if self.format is Format.MOLMO2 else select_molmo1(text)

    def parse(self, text: str, width: int, height: int) -> tuple[ImagePoint, ...]:
        """The same in pixels of an image of width x height px."""
        parse = parse_molmo2 if self.format is Format.MOLMO2 else parse_molmo1
        return parse(text, width, height)

    def points(self, text: str, tokens: Sequence[Token], width: int, height: int) -> tuple[ImagePoint, ...]:
        """The points of a finished answer, in px, with confidence and covariance."""
        return annotate(self.parse(text, width, height), self.scan(text), tokens, width, height)

    def numbers(self, text: str) -> tuple[str, ...]:
        """The coordinates of an answer as written, x and y in turn."""
        return tuple(text[a:b] for p in self.scan(text) for a, b in (p.x_span, p.y_span))

    def foresee(self, written: str, ahead: str, before: tuple[str, ...]) -> tuple[str, ...]:
        """The numbers of an answer that continues roughly like ``ahead``; missing ones are taken from
        ``before``.

        Where nothing is known, the middle of the image is as good a guess as any; after a point, that point.
        """
        pattern, middle = (r"\d{3,4}", "500") if self.format is Format.MOLMO2 else (r"\d{1,3}\.\d", "50.0")
        tag = (written + ahead)[written.rfind("<") + 1 :].split(">")[0]
        found = tuple(re.findall(pattern, tag))
        found += before[len(found) :] or (middle, middle)[len(found) :]
        state = self.state(written)
        another = state.at is At.NUMBER and state.number >= len(found)
        return found + found[-2:] if another else found

    def state(self, text: str) -> State:
        """Where the unfinished answer ``text`` ends."""
        if not text.strip():
            return State(At.START, written=text)
        body = text[text.rfind("<") :] if "<" in text else ""
        for opening in self.openings:
            if body and opening.startswith(body) and opening != body:
                return State(At.LITERAL, opening, 0, body)
            if body.startswith(opening):
                return self._walk(body[len(opening) :], opening)
        return State(At.ELSEWHERE, written=text)

    def _walk(self, body: str, opening: str) -> State:
        """The state at the end of ``body``, the text after the opening."""
        number = 0
        while True:
            value = body[: len(body) - len(body.lstrip(".0123456789"))]
            body = body[len(value) :]
            if not body and (self.may_grow(value) or not self.complete(value)):
                return State(At.NUMBER, opening, number, value)
            if not self.complete(value):
                return State(At.ELSEWHERE, opening, number, value)
            number += 1
            before = self.before(opening, number)
            if not before or not body.startswith(before):
                return State(self._behind(body, opening, number), opening, number, body)
            body = body[len(before) :]

    def _behind(self, body: str, opening: str, number: int) -> At:
        """What ``body``, after this many numbers, can still become."""
        before = self.before(opening, number)
        head = '">' if self.format is Format.MOLMO2 else '" alt="'
        more = bool(before) and before.startswith(body)
        end = number % 2 == 0 and (body.startswith(head) or head.startswith(body))
        if more and end:
            return At.CHOICE
        return At.LITERAL if more else At.CLOSING if end else At.ELSEWHERE

    def draft(self, text: str, plan: Plan) -> Draft:
        """What probably comes after ``text``; nothing where nothing can be said."""
        state = self.state(text)
        written = len(state.written)
        if state.at is At.START:
            lead = " " if self.format is Format.MOLMO1 and not text else ""
            opening = self._opening(plan)
            return self._follow(lead + opening, opening, 0, plan)
        if state.at is At.LITERAL:
            likely = self._opening(plan)
            opening = likely if not state.number and likely.startswith(state.written) else state.opening
            return self._follow(self.before(opening, state.number)[written:], opening, state.number, plan)
        if state.at is At.NUMBER:
            return self._within(state, plan)
        if state.at is At.CHOICE:
            draft = self._behind_number("", state.opening, state.number, plan)
            return Draft(draft.text[written:], draft.followers)
        if state.at is At.CLOSING:
            closing = self.closing(state.opening, plan.label) if plan.exact else ""
            return Draft(closing[written:] if closing.startswith(state.written) else "")
        none = " " + NONE_ANSWER if text.startswith(" ") else NONE_ANSWER
        return Draft(none[len(text) :] if none.startswith(text) else "")

    def done(self, text: str, plan: Plan) -> bool:
        """True once nothing that was asked for can follow: all the points, or word that there are none."""
        state = self.state(text)
        full = plan.max_points is not None and state.number >= 2 * plan.max_points
        if plan.exact:
            return full and state.at in (At.LITERAL, At.NUMBER)
        if full and state.at in (At.CHOICE, At.CLOSING, At.LITERAL):
            # Per cent may have more than one decimal, so there the quote after them is awaited.
            return self.format is Format.MOLMO2 or bool(state.written)
        if state.at is At.CLOSING:
            return bool(state.written)
        return state.at is At.ELSEWHERE and (text.strip() == NONE_ANSWER or _TAG.search(text) is not None)

    def finish(self, text: str, label: str) -> str:
        """``text``, whose points are complete, with the closing that was not generated."""
        state = self.state(text)
        if state.at not in (At.CHOICE, At.CLOSING, At.LITERAL) or not state.number:
            return text
        plain = " ".join(re.sub(r'[<>"]', " ", label).split())
        return text[: len(text) - len(state.written)] + self.closing(state.opening, plain)

    def _opening(self, plan: Plan) -> str:
        return self.openings[-1 if len(plan.previous) > 2 else 0]

    def _follow(self, text: str, opening: str, number: int, plan: Plan) -> Draft:
        """``text`` ends before a number; if that is already known, go on after it."""
        if number >= len(plan.likely):
            return Draft(text, _NUMBERS)
        return self._behind_likely(text + plan.likely[number], opening, number + 1, plan)

    def _behind_likely(self, text: str, opening: str, number: int, plan: Plan) -> Draft:
        """``text`` ends after a number that is a guess; nothing is guessed beyond a number that was only
        foreseen."""
        if plan.previous or number < len(plan.likely):
            return self._behind_number(text, opening, number, plan)
        return Draft(text, (self.before(opening, number), self.closing(opening, plan.label)))

    def _behind_number(self, text: str, opening: str, number: int, plan: Plan) -> Draft:
        """``text`` ends after a number; ``number`` of them are complete."""
        before, closing = self.before(opening, number), self.closing(opening, plan.label)
        if before and (number % 2 or plan.wants_more(number)):
            return self._follow(text + before, opening, number, plan)
        if plan.exact:
            return Draft(text + closing)
        if not before:
            return Draft(text, (closing,))
        same = next(i for i, (a, b) in enumerate(zip(before, closing, strict=False)) if a != b)
        return Draft(text + before[:same], (before[same:], closing[same:]))

    def _within(self, state: State, plan: Plan) -> Draft:
        """In a number: the part of its rest that is fixed, or what brings it nearest to the previous one."""
        value, number = state.written, state.number
        if self.complete(value):
            return self._behind_number("", state.opening, number + 1, plan)
        if number < len(plan.likely) and (rest := _nearest(value, plan.likely[number])):
            return self._behind_likely(rest, state.opening, number + 1, plan)
        if self.format is Format.MOLMO1 and (value == "0" or (value.isdigit() and len(value) > 1)):
            # 10 may become 100, yet hardly ever does
            return Draft(".0", ('"',)) if value == "100" else Draft(".", _NUMBERS)
        return Draft()


def _nearest(begun: str, previous: str) -> str:
    """The rest of a number that was ``begun`` and is probably near to ``previous``: 30 -> 0 after 299."""
    if previous.startswith(begun):
        return previous[len(begun) :]
    fill = "0" if begun > previous[: len(begun)] else "9"
    return re.sub(r"\d", fill, previous[len(begun) :])
