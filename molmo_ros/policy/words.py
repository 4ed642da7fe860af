"""A request in words: tokens, word groups, and to whom something is given.

Deliberately simple: English, no parser, no model. What it cannot see is in docs/safety.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_IRREGULAR = {
    "knives": "knife", "gave": "give", "given": "give", "brought": "bring", "threw": "throw", "shot": "shoot",
    "thrown": "throw", "hung": "hang", "stuck": "stick", "stole": "steal", "stolen": "steal", "hid": "hide",
    "children": "child", "men": "man", "women": "woman", "mice": "mouse", "fed": "feed", "broke": "break",
    "babies": "baby", "feet": "foot", "teeth": "tooth", "matches": "match", "scissors": "scissors",
    "glasses": "glasses", "glass": "glass", "lies": "lie", "dying": "die", "tied": "tie", "lit": "light",
    "axes": "axe", "bus": "bus", "gas": "gas", "pliers": "pliers", "boss": "boss", "dress": "dress",
}  # fmt: skip
_VOWELS = frozenset("aeiouy")
PREPOSITIONS = """
    to into in on onto over under at from for with of off out through around down up between behind against
""".split()  # noqa: SIM905 (a list of words reads best as one)
GIVING = "give hand pass bring feed serve offer let lend sell show fetch get deliver".split()  # noqa: SIM905
DETERMINERS = "the a an some his her my our your their its this that these those two three".split()  # noqa: SIM905
PRONOUNS = "me him her them us it you".split()  # noqa: SIM905


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    """The word without the endings -s, -es, -ed and -ing, crudely: it only has to be the same for both sides.

    >>> [stem(w) for w in ("mugs", "boxes", "dropped", "cutting", "child's")]
    ['mug', 'box', 'drop', 'cut', 'child']
    """
    word = word.removesuffix("'s").removesuffix("'")
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending, least in (("ing", 5), ("ed", 5), ("es", 5), ("s", 4)):
        if not word.endswith(ending) or len(word) < least or word.endswith("ss"):
            continue
        body = word[: -len(ending)]
        if ending == "es" and not body.endswith(("x", "ch", "sh", "ss", "z")):
            continue
        if not _VOWELS & set(body):
            continue
        if ending in ("ing", "ed") and len(body) > 3 and body[-1] == body[-2] and body[-1] not in "lsz":
            body = body[:-1]
        return body.rstrip("e") if ending in ("ing", "ed") else body
    return word


def tokens(text: str) -> tuple[str, ...]:
    """Stems of the words of a text; accents and case do not matter."""
    plain = unicodedata.normalize("NFKD", text.casefold().replace("\u2019", "'"))
    return tuple(
        _key(word) for word in _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))
    )


def _key(word: str) -> str:
    """-e at the end is dropped, so that "smothered" and "smother", "shave" and "shaving" meet."""
    found = stem(word)
    return found[:-1] if len(found) > 3 and found.endswith("e") else found


@dataclass(frozen=True)
class Group:
    """Words and phrases that mean the same to a rule."""

    name: str
    phrases: frozenset[tuple[str, ...]]
    first: frozenset[str]
    longest: int

    @staticmethod
    def of(name: str, words: Iterable[str]) -> Group:
        phrases = frozenset(found for word in words if (found := tokens(word)))
        first = frozenset(phrase[0] for phrase in phrases)
        return Group(name, phrases, first, max(map(len, phrases), default=0))

    def find(self, words: Sequence[str]) -> str:
        """The first phrase of the group among the words, empty if there is none."""
        for start, word in enumerate(words):
            if word not in self.first:
                continue
            for end in range(start + 1, min(start + self.longest, len(words)) + 1):
                if tuple(words[start:end]) in self.phrases:
                    return " ".join(words[start:end])
        return ""

    def without(self, words: Sequence[str]) -> tuple[str, ...]:
        """The words, each phrase of the group replaced by "thing", the longest one first."""
        left: list[str] = []
        start = 0
        while start < len(words):
            ends = range(min(start + self.longest, len(words)), start, -1)
            end = next((e for e in ends if tuple(words[start:e]) in self.phrases), None)
            left.append("thing" if end is not None else words[start])
            start = end if end is not None else start + 1
        return tuple(left)


@dataclass(frozen=True)
class Parts:
    """A request taken apart: all words; those of the recipient; those after the first preposition."""

    words: tuple[str, ...]
    recipient: tuple[str, ...]
    place: tuple[str, ...]


_GIVING, _PREPOSITIONS = {_key(w) for w in GIVING}, {_key(w) for w in PREPOSITIONS}
_DETERMINERS, _PRONOUNS = {_key(w) for w in DETERMINERS}, {_key(w) for w in PRONOUNS}
_MOST_RECIPIENT_WORDS = 6


_PARTICLES = {_key(w) for w in ("up", "out", "down", "off", "over", "away", "through", "in")}
_POLITE = {_key(w) for w in ("please", "could", "can", "would", "you", "now", "then", "and")}


def verb(words: Sequence[str]) -> str:
    """The verb of an order, empty if the words only name a thing: "slap the waiter", but not "red mug".

    It is one if a determiner or pronoun follows it, perhaps with "up", "out" ... between.
    """
    order = [word for word in words if word not in _POLITE]
    behind = order[2:3] if order[1:2] and order[1] in _PARTICLES else order[1:2]
    if not behind or behind[0] not in _DETERMINERS | _PRONOUNS or order[0] in _DETERMINERS | _PREPOSITIONS:
        return ""
    return order[0]


def take_apart(words: Sequence[str]) -> Parts:
    """Recipient: "to the child", "for him", or what stands between verb and thing: "give him the cup"."""
    place: tuple[str, ...] = ()
    for i, word in enumerate(words):
        if word in _PREPOSITIONS and i:
            place = tuple(words[i + 1 :])
            break
    return Parts(tuple(words), _recipient(words), place)


def _recipient(words: Sequence[str]) -> tuple[str, ...]:
    verb = next((i for i, word in enumerate(words) if word in _GIVING), None)
    if verb is None:
        return ()
    rest = list(words[verb + 1 :])
    for i, word in enumerate(rest):
        if i and word in ("to", "for") and rest[i + 1 : i + 2] not in (["shelf"], ["drawer"]):
            return tuple(rest[i + 1 : i + 1 + _MOST_RECIPIENT_WORDS])
    if not rest:
        return ()
    pronoun = rest[0] in _PRONOUNS and (rest[0] != "her" or (rest[1:2] and rest[1] in _DETERMINERS))
    if pronoun and len(rest) > 1:
        return (rest[0],)
    determiners = [i for i, word in enumerate(rest) if word in _DETERMINERS]
    second = next((i for i in determiners if i > 0), None)
    return tuple(rest[:second]) if second is not None else tuple(rest[:3])
