"""Questions about a frame, and the answers in the official Molmo2 formats.

Whatever the wording, the answer names every thing that fits, sorted by x then y, or says that there are none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmo_ros.answer_format.points import NONE_ANSWER, format_count_molmo2, format_molmo2
from molmo_ros.sim.objects import COLORS, KINDS, PLURALS, colors_of

POINTING = (
    "Point to {}.",
    "Point to {}.",
    "Point to {}.",
    "Point to {}\nPlease say 'There are none.' if it is not in the image.",
    "Point at {}.",
    "Locate {}.",
    "Find {}.",
    "Where is {}?",
)
COUNTING = ("How many {} are there?", "How many {} are there?", "Count the {}.", "How many {} do you see?")
NAMING = ("What is on the table?", "Describe the image.", "What do you see?")
STRANGERS = """
    spoon fork knife plate cup glass phone laptop keyboard mouse pen pencil book apple
    pear lemon carrot tomato screwdriver hammer wrench scissors tape stapler remote key
    wallet shoe sock hat glove towel sponge brush comb candle lamp clock vase plant
    flower cat dog bird fish robot car truck teddy bear doll block cube cylinder cone
    ring coin battery cable charger headphones watch bag jar pot pan kettle whisk ladle
    cork stick rope shirt duck
""".split()  # noqa: SIM905 (a list of words reads best as one)


@dataclass(frozen=True)
class Thing:
    """What a question can ask for: kind and colour as indices, x and y in per mille of the image."""

    kind: int
    color: int
    x: int
    y: int


def pointing_answer(things: list[Thing], label: str) -> str:
    return format_molmo2([(t.x, t.y) for t in things], label)


def counting_answer(things: list[Thing], label: str) -> str:
    return format_count_molmo2([(t.x, t.y) for t in things], label)


def naming_answer(things: list[Thing]) -> str:
    names = [f"{_a(_color(t.color))} {KINDS[t.kind]}" for t in sorted(things, key=lambda t: (t.x, t.y))]
    return (" and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]) + "."


def ask(things: list[Thing], rng: np.random.Generator) -> tuple[str, str]:
    """One question and its answer, drawn from rng."""
    draw = rng.random()
    if draw < 0.05:
        return _pick(NAMING, rng), naming_answer(things)
    if draw < 0.25:
        return _absent(things, rng)
    asked = things[rng.integers(len(things))]
    by_kind, by_color = (True, False) if draw < 0.55 else (False, True) if draw < 0.60 else (True, True)
    found = [
        t
        for t in things
        if (not by_kind or t.kind == asked.kind) and (not by_color or t.color == asked.color)
    ]
    many = len(found) > 1 if rng.random() < 0.8 else rng.random() < 0.3
    counting = by_kind and rng.random() < (0.45 if not by_color else 0.12)
    noun = _noun(asked.kind if by_kind else None, asked.color if by_color else None, many or counting)
    if counting:
        return _pick(COUNTING, rng).format(noun), counting_answer(found, noun)
    return _pick(POINTING, rng).format(_article(noun, many, rng)), pointing_answer(found, noun)


def _absent(things: list[Thing], rng: np.random.Generator) -> tuple[str, str]:
    """A question about something that is not there: often nearly there (right kind, wrong colour)."""
    many = rng.random() < 0.25
    noun = _stranger(many, rng) if rng.random() < 0.12 else _missing(things, many, rng)
    if many and rng.random() < 0.5:
        return _pick(COUNTING, rng).format(noun), NONE_ANSWER
    return _pick(POINTING, rng).format(_article(noun, many, rng)), NONE_ANSWER


def _missing(things: list[Thing], many: bool, rng: np.random.Generator) -> str:
    kinds, pairs = {t.kind for t in things}, {(t.kind, t.color) for t in things}
    while True:
        kind = int(rng.integers(len(KINDS)))
        if kind not in kinds and rng.random() < 0.6:
            return _noun(kind, None, many)
        if rng.random() < 0.5:  # the colour of one thing with the kind of another
            kind, color = things[rng.integers(len(things))].kind, things[rng.integers(len(things))].color
        else:
            color = list(COLORS).index(str(rng.choice(colors_of(KINDS[kind]))))
        if (kind, color) not in pairs:
            return _noun(kind, color, many)


def _stranger(many: bool, rng: np.random.Generator) -> str:
    word = (
        _pick(STRANGERS, rng) if rng.random() < 0.8 else "".join(rng.choice(list("abcdefghiklmnoprstuvw"), 6))
    )
    color = f"{_color(int(rng.integers(len(COLORS))))} " if rng.random() < 0.4 else ""
    return f"{color}{word}{'s' if many else ''}"


def _noun(kind: int | None, color: int | None, many: bool) -> str:
    word = "thing" if kind is None else KINDS[kind]
    if many:
        word = PLURALS.get(word, word + "s")
    return word if color is None else f"{_color(color)} {word}"


def _article(noun: str, many: bool, rng: np.random.Generator) -> str:
    if many:
        return _pick(("the {}", "all {}", "all the {}", "{}"), rng).format(noun)
    return _pick((f"the {noun}", f"the {noun}", f"the {noun}", _a(noun), noun), rng)


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _color(index: int) -> str:
    return list(COLORS)[index]


def _pick(options: tuple[str, ...] | list[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
