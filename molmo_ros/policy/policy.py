"""A policy in YAML: groups of words, and rules, of which the first that fits decides.

Advice, not a safety function: it reads words. It does not know what an object is, what a person intends, or
what follows from an act. It replaces neither the limits (``limits``) nor the robot's own safety functions nor
people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from molmo_ros.errors import ParameterError
from molmo_ros.policy.words import Group, Parts, take_apart, tokens, verb
from molmo_ros.untrusted import read_yaml

PRESETS = Path(__file__).parent.parent / "assets" / "policy"
PEOPLE = ("no", "near", "hand", "child")  # what was seen beside the target; a later one includes the earlier
CONDITIONS = ("words", "action", "object", "recipient", "place")


class Verdict(IntEnum):
    """Ordered by strictness, so the stricter of two is their maximum."""

    ALLOW = 0
    ASK = 1
    REFUSE = 2


@dataclass(frozen=True)
class Decision:
    """What was decided, by which rule, and why, in words for people; matched: condition -> the words that it
    found."""

    verdict: Verdict
    rule: str
    text: str
    matched: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Circumstances:
    """What is known beside the words: labels of what was found, people beside it (one of PEOPLE)."""

    labels: tuple[str, ...] = ()
    people: str = "no"


@dataclass(frozen=True)
class Rule:
    """Fits if every condition does. A condition fits if one of its groups is found where it looks.

    words, action, object: anywhere in the request and the labels (three names, so that a rule can ask for
    three things at once); recipient: to whom it is given; place: after the first preposition. people: at
    least this close to the target. unless: groups none of which may be found.
    """

    name: str
    verdict: Verdict
    text: str
    conditions: Mapping[str, tuple[Group, ...]]
    unless: tuple[Group, ...]
    people: str

    def fits(self, parts: Parts, people: str) -> Mapping[str, str] | None:
        """What each condition found, or None."""
        if PEOPLE.index(people) < PEOPLE.index(self.people):
            return None
        if any(group.find(parts.words) for group in self.unless):
            return None
        where = {"recipient": parts.recipient, "place": parts.place}
        found = {}
        for name, groups in self.conditions.items():
            places = where.get(name, parts.words)
            found[name] = next((hit for group in groups if (hit := group.find(places))), "")
            if not found[name]:
                return None
        return found if self.people == "no" else {**found, "people": people}


@dataclass(frozen=True)
class Policy:
    """Rules in the order in which they are tried. harmless: phrases that no rule sees ("butter knife").

    actions: verbs that are fine where no rule fits; others are asked about. Empty: all are fine.
    """

    name: str
    harmless: Group
    rules: tuple[Rule, ...]
    actions: Group
    default: Decision

    @staticmethod
    def load(name_or_path: str | Path) -> Policy:
        """A preset ("home", "lab") or a YAML file. Raises: ParameterError naming what is wrong in it."""
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            if str(name_or_path) not in preset_names():
                known = ", ".join(preset_names())
                raise ParameterError(
                    f"There is no policy {str(name_or_path)!r:.80}; choose {known}, or a YAML file."
                )
            path = PRESETS / f"{name_or_path}.yaml"
        try:
            content = read_yaml(path)
        except (OSError, ValueError) as error:
            raise ParameterError(f"{path} cannot be read ({error}); give a policy YAML file.") from error
        return parse_policy(content, path)

    def decide(self, request: str, seen: Circumstances | None = None) -> Decision:
        """The verdict on a request, after grounding; the same for the same input, always."""
        seen = seen or Circumstances()
        words = tokens(request)
        for label in seen.labels:
            if not set(tokens(label)) <= set(words):
                words = (*words, *tokens(label))
        parts = take_apart(self.harmless.without(words))
        for rule in self.rules:
            if (found := rule.fits(parts, seen.people)) is not None:
                return Decision(rule.verdict, rule.name, rule.text, found)
        act = verb(tokens(request))
        if self.actions.phrases and act and not self.actions.find([act]):
            return Decision(
                Verdict.ASK, "unknown-action", f"The policy knows no action {act!r}.", {"action": act}
            )
        return self.default


def preset_names() -> tuple[str, ...]:
    """The policies that come with the package."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def parse_policy(content: Any, path: Path) -> Policy:
    """Raises: ParameterError naming the entry that is wrong."""
    top = _record(content, path, "the file", {"name", "groups", "rules"}, {"harmless", "actions", "default"})
    groups = {
        str(name): Group.of(str(name), _strings(words, path, f"groups.{name}"))
        for name, words in _record(top["groups"], path, "groups", set(), None).items()
    }
    if not isinstance(top["rules"], list) or not top["rules"]:
        raise ParameterError(f"{path}: rules is no list; give one rule at least.")
    rules = tuple(_rule(entry, path, number, groups) for number, entry in enumerate(top["rules"]))
    names = [rule.name for rule in rules]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ParameterError(f"{path}: two rules are named {sorted(doubled)[0]!r}; a verdict tells the name.")
    default = _verdict(top.get("default", "allow"), path, "default")
    harmless = Group.of("harmless", _strings(top.get("harmless", []), path, "harmless"))
    actions = Group.of("actions", _strings(top.get("actions", []), path, "actions"))
    return Policy(
        str(top["name"]), harmless, rules, actions, Decision(default, "default", "No rule speaks to this.")
    )


def _rule(entry: Any, path: Path, number: int, groups: Mapping[str, Group]) -> Rule:
    where = f"rule {number + 1}"
    fields = _record(entry, path, where, {"name", "verdict", "text"}, {*CONDITIONS, "unless", "people"})

    def named(field_name: str) -> tuple[Group, ...]:
        found = []
        for name in _strings(fields.get(field_name, []), path, f"{where}.{field_name}"):
            if name not in groups:
                raise ParameterError(f"{path}: {where} names the group {name!r}; it has {', '.join(groups)}.")
            found.append(groups[name])
        return tuple(found)

    people = fields.get("people", "no")
    people = "no" if people is False else people  # YAML reads a bare no as false
    if people not in PEOPLE:
        raise ParameterError(f"{path}: {where}.people is {people!r}; choose one of {', '.join(PEOPLE)}.")
    conditions = {name: named(name) for name in CONDITIONS if name in fields}
    if not conditions and people == "no":
        raise ParameterError(f"{path}: {where} has no condition; use default for what no rule speaks to.")
    verdict = _verdict(fields["verdict"], path, where)
    return Rule(str(fields["name"]), verdict, str(fields["text"]), conditions, named("unless"), str(people))


def _verdict(value: Any, path: Path, where: str) -> Verdict:
    names = [verdict.name.lower() for verdict in Verdict]
    if value not in names:
        raise ParameterError(
            f"{path}: the verdict of {where} is {value!r}; choose one of {', '.join(names)}."
        )
    return Verdict[str(value).upper()]


def _record(value: Any, path: Path, where: str, needed: set[str], known: set[str] | None) -> dict[str, Any]:
    """A mapping with the required keys; other keys must be known ones, None: any."""
    if not isinstance(value, dict):
        raise ParameterError(
            f"{path}: {where} is {value!r:.60}; give a record of {', '.join(sorted(needed))}."
        )
    keys = {str(key) for key in value}
    missing, unknown = sorted(needed - keys), sorted(keys - needed - (known or keys))
    if missing or unknown:
        raise ParameterError(f"{path}: {where} lacks {missing} and has unknown {unknown}.")
    return {str(key): inner for key, inner in value.items()}


def _strings(value: Any, path: Path, where: str) -> Sequence[str]:
    """A list of words, or one string of words with commas between."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return value
    raise ParameterError(f"{path}: {where} is {value!r:.60}; give words with commas between.")
