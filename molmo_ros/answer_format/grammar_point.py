"""The grammar of MolmoPoint's answers; the counterpart of ``grammar``.

The opening, the numbers after the points and the end are fixed; the choice of patches never is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from molmo_ros.answer_format.confidence import Token, annotate_patches
from molmo_ros.answer_format.grammar import At, Draft, Plan
from molmo_ros.answer_format.patches import PatchMap, parse_molmopoint, point_token, select_molmopoint
from molmo_ros.answer_format.points import NONE_ANSWER, plain_label
from molmo_ros.datatypes import ImagePoint

OPENING = '<points coords="'
_ANY = r"<POINT_[0-9]{1,6}> ?"
_TOKENS = (point_token(0), point_token(1))  # what may follow the fixed text
# Points with their numbers, a point without, one or two tokens of the next, and what is no point.
_BODY = re.compile(rf"((?:(?:{_ANY}){{3}}[0-9]+ ?)*)((?:{_ANY}){{3}})?((?:{_ANY}){{0,2}})(.*)", re.DOTALL)


@dataclass(frozen=True)
class PatchState:
    """Where an unfinished answer ends: ``points`` are complete, the last of them ``numbered`` or not yet;
    ``written`` is the beginning of the opening or of the closing, ``end`` that of the points in the text."""

    at: At
    points: int = 0
    numbered: bool = True
    written: str = ""
    end: int = 0


@dataclass(frozen=True)
class PatchGrammar:
    """The answers about one image; without its map, as long as nothing is written yet."""

    places: PatchMap | None = None

    def points(self, text: str, tokens: Sequence[Token], width: int, height: int) -> tuple[ImagePoint, ...]:
        """The points of a finished answer, in px, with confidence and covariance."""
        if self.places is None:
            return ()
        parsed = parse_molmopoint(text, self.places, width, height)
        return annotate_patches(
            parsed, select_molmopoint(text, self.places), tokens, self.places, width, height
        )

    def numbers(self, text: str) -> tuple[str, ...]:
        """Nothing carries over from one answer to the next: tokens name patches of one image."""
        return ()

    def foresee(self, written: str, ahead: str, before: tuple[str, ...]) -> tuple[str, ...]:
        """Nothing: which patch comes next depends on the one before it."""
        return ()

    def state(self, text: str) -> PatchState:
        if not text.strip():
            return PatchState(At.START, written=text)
        start = max(text.rfind("<points"), text.rfind("<tracks"))
        tail = text[text.rfind("<") :] if start < 0 and "<" in text else text[start:] if start >= 0 else ""
        if tail and tail != OPENING and OPENING.startswith(tail):
            return PatchState(At.LITERAL, written=tail)
        if not tail.startswith(OPENING):
            return PatchState(At.ELSEWHERE, written=text)
        numbered, last, begun, rest = _BODY.fullmatch(tail[len(OPENING) :]).groups("")  # type: ignore[union-attr]
        count = (numbered.count("<POINT_") + last.count("<POINT_")) // 3
        end = start + len(OPENING) + len(numbered) + len(last)
        at = self._behind(begun.rstrip(), rest, bool(last))
        return PatchState(at, count, not last, rest, end)

    def _behind(self, begun: str, rest: str, unnumbered: bool) -> At:
        """What can follow after points: ``begun`` are the tokens of the next."""
        last = self.places is not None and begun == point_token(self.places.no_more)
        if rest:
            closes = rest.startswith('">') or '">'.startswith(rest)
            return At.CLOSING if closes and (last or not begun) and not unnumbered else At.ELSEWHERE
        if last:
            return At.CLOSING
        return At.NUMBER if begun else At.CHOICE

    def draft(self, text: str, plan: Plan) -> Draft:
        """What probably comes after ``text``; nothing where nothing can be said."""
        state = self.state(text)
        if state.at is At.START:
            return Draft(OPENING, _TOKENS)
        if state.at is At.LITERAL:
            return Draft(OPENING[len(state.written) :], _TOKENS)
        if state.at is At.CHOICE:
            return Draft() if state.numbered else Draft(str(state.points), _TOKENS)
        if state.at is At.CLOSING and plan.exact:
            closing = f'">{plan.label}</point>'
            return Draft(closing[len(state.written) :] if closing.startswith(state.written) else "")
        if state.at is At.ELSEWHERE and NONE_ANSWER.startswith(text):
            return Draft(NONE_ANSWER[len(text) :])
        return Draft()

    def done(self, text: str, plan: Plan) -> bool:
        """True once nothing that was asked for can follow: all the points, or word that there are none."""
        state = self.state(text)
        full = plan.max_points is not None and state.points >= plan.max_points
        if plan.exact:
            return full and state.at is At.NUMBER
        if state.at is At.CLOSING or (full and state.at is At.CHOICE and state.points > 0):
            return True
        return state.at is At.ELSEWHERE and (text.strip() == NONE_ANSWER or "</point" in text)

    def finish(self, text: str, label: str) -> str:
        """``text``, whose points are complete, with the closing that was not generated."""
        state = self.state(text)
        if state.at not in (At.CHOICE, At.CLOSING) or not state.points or self.places is None:
            return text
        number = "" if state.numbered else str(state.points)
        closing = f'{number}{point_token(self.places.no_more)}">{plain_label(label)}</point>'
        return text[: state.end] + closing
