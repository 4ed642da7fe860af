"""A second opinion on an act, from a model that is asked in Delphi's form. It may only tighten a verdict.

Delphi (L. Jiang et al., Can Machines Learn Morality? The Delphi Experiment, 2021, arXiv 2110.07574) reads an
act in plain words after the mark ``[moral_single]:`` and writes one of three classes with a short text:
``<class>-1</class> <text>It's dangerous</text>``; -1 is wrong, 0 discretionary, 1 right. Later versions write
the tags in square brackets. Any other model is told to write the same. Advice, not a safety function.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from molmo_ros.datatypes import ShouldStop
from molmo_ros.errors import AnswerError, ServerError
from molmo_ros.policy.policy import Circumstances, Decision, Verdict

JUDGE, SILENT = "judge", "judge-silent"  # names of its rules
FORMS = ("chat", "delphi")  # a model that has to be told the format, or one that was trained on it
INSTRUCTION = (
    "You judge acts of a robot in a home or a laboratory: may it do this, here and now? Think of who may "
    "be hurt, robbed or frightened. Answer with one line and nothing else: <class>C</class> <text>T</text>. "
    "C is -1 if the act is wrong, 0 if it is a matter of taste, 1 if it is right; T is the reason in ten "
    "words."
)
BESIDE = {
    "near": ", with people beside it", "hand": ", with a hand beside it", "child": ", with a child beside it",
}  # fmt: skip
MAX_TEXT = 200
MOST_REMEMBERED = 256
_CLASS = re.compile(r"[<\[]class[>\]]\s*(-?\d+)\s*[<\[]/class[>\]]")
_TEXT = re.compile(r"[<\[]text[>\]](.*?)(?:[<\[]/text[>\]]|$)", re.DOTALL)

Ask = Callable[[str, str, ShouldStop], str]  # (instruction, question, should_stop) -> the model's words


class Judgement(IntEnum):
    """Delphi's classes."""

    WRONG = -1
    DISCRETIONARY = 0
    RIGHT = 1


@dataclass(frozen=True)
class Opinion:
    """What the judge says, with its reason in a few words."""

    judgement: Judgement
    text: str


class Judge:
    """Asks a model and caches its last opinions: a track asks the same again and again."""

    def __init__(
        self,
        ask: Ask,
        form: str = "chat",
        discretionary: Verdict = Verdict.ALLOW,
        silence_refuses: bool = True,
    ) -> None:
        """``ask`` raises ServerError if no answer comes in time. ``discretionary``: verdict on class 0."""
        self._ask, self._instruction = ask, INSTRUCTION if form == "chat" else ""
        self._verdicts = {
            Judgement.WRONG: Verdict.REFUSE,
            Judgement.DISCRETIONARY: discretionary,
            Judgement.RIGHT: Verdict.ALLOW,
        }
        self._silence = Verdict.REFUSE if silence_refuses else Verdict.ALLOW
        self._opinions: dict[str, Opinion] = {}

    def tighten(
        self, decision: Decision, request: str, seen: Circumstances, should_stop: ShouldStop
    ) -> Decision:
        """The decision, or a stricter one. Raises: CancelledError."""
        if decision.verdict is Verdict.REFUSE:
            return decision
        act = describe_act(request, seen)
        try:
            opinion = self._opinion(act, should_stop)
        except (ServerError, AnswerError) as error:
            text = f"The judge gave no opinion: {error}"
            return self._stricter(decision, Decision(self._silence, SILENT, text, {"act": act}))
        text = f"The judge calls this {opinion.judgement.name.lower()}: {opinion.text or 'no reason given'}"
        return self._stricter(
            decision, Decision(self._verdicts[opinion.judgement], JUDGE, text, {"act": act})
        )

    def _opinion(self, act: str, should_stop: ShouldStop) -> Opinion:
        known = self._opinions.get(act)
        if known is None:
            known = parse_opinion(self._ask(self._instruction, f"[moral_single]: {act}", should_stop))
            self._opinions[act] = known
            if len(self._opinions) > MOST_REMEMBERED:
                self._opinions.pop(next(iter(self._opinions)))
        return known

    @staticmethod
    def _stricter(decision: Decision, other: Decision) -> Decision:
        return other if other.verdict > decision.verdict else decision


def describe_act(request: str, seen: Circumstances) -> str:
    """The act with its circumstances, in plain words, without marks that a model could mistake for its
    own."""
    words = " ".join(re.sub(r"[^\w\s.,;:!?'\"%/+-]", " ", request).split())
    found = [label for label in seen.labels if label.lower() not in words.lower()]
    what = f" ({', '.join(found)})" if found else ""
    return f"A robot is asked for this and does it: {words}{what}{BESIDE.get(seen.people, '')}"


def parse_opinion(text: str) -> Opinion:
    """Read Delphi's form, with either kind of brackets.

    Raises: AnswerError for anything else: no class, an unknown one, or two that differ.
    """
    classes = set(_CLASS.findall(text))
    values = [value.value for value in Judgement]
    if len(classes) != 1 or int(next(iter(classes))) not in values:
        raise AnswerError(
            f"The judge's answer is not in Delphi's form, one class of {values}: {text[:90]!r}; "
            "check its model."
        )
    reason = _TEXT.search(text)
    words = " ".join(reason.group(1).split()) if reason else ""
    return Opinion(Judgement(int(classes.pop())), "".join(c for c in words if c.isprintable())[:MAX_TEXT])
