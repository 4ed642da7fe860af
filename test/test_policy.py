"""The policy: what rules look at, what files are refused, and how often it is right."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from molmo_ros.cli import main
from molmo_ros.errors import ParameterError
from molmo_ros.policy.evaluate import REQUESTS, evaluate_policy, read_requests
from molmo_ros.policy.policy import Circumstances, Policy, Verdict, parse_policy, preset_names
from molmo_ros.policy.words import Group, stem, take_apart, tokens, verb

HOME = Policy.load("home")
SMALL: dict[str, Any] = {
    "name": "small",
    "groups": {"sharp": "knife, bread saw", "child": ["child"], "shelf": "shelf"},
    "rules": [
        {"name": "child", "verdict": "refuse", "text": "no", "object": "sharp", "recipient": "child"},
        {"name": "shelf", "verdict": "ask", "text": "hm", "object": "sharp", "place": "shelf"},
        {"name": "near", "verdict": "ask", "text": "hm", "people": "near", "unless": "shelf"},
    ],
}


def small(**changes: Any) -> Policy:
    return parse_policy({**SMALL, **changes}, Path("small.yaml"))


@pytest.mark.parametrize(
    ("words", "same"),
    [("knife", "Knives"), ("cut", "cutting"), ("drop", "dropped"), ("smother", "smothering"),
    ("box", "boxes"), ("shave", "shaving"), ("child's", "children"), ("match", "matches"),
    ("eclair", "\u00e9clairs")],
)  # fmt: skip
def test_forms_of_one_word_are_the_same(words: str, same: str) -> None:
    assert tokens(words) == tokens(same)


@pytest.mark.parametrize("word", ["glass", "scissors", "gas", "ring", "bed", "is", "the"])
def test_words_that_only_look_like_forms(word: str) -> None:
    assert stem(word) == word


@pytest.mark.parametrize(
    ("request_", "recipient"),
    [
        ("give the knife to the child", "the child"),
        ("give the child the knife", "the child"),
        ("hand him the cup", "him"),
        ("bring a cup of tea for my mother", "my mother"),
        ("put the cup on the shelf", ""),
        ("the red mug", ""),
    ],
)
def test_to_whom_something_is_given(request_: str, recipient: str) -> None:
    assert take_apart(tokens(request_)).recipient == tokens(recipient)


@pytest.mark.parametrize(
    ("request_", "act"),
    [("slap the waiter", "slap"), ("please rip up the photo", "rip"), ("the red mug", ""),
    ("red mug on the table", ""),     ("behind the box", ""), ("", ""), ("forge my signature", "forg")],
)  # fmt: skip
def test_the_verb_of_an_order(request_: str, act: str) -> None:
    assert verb(tokens(request_)) == act


def test_a_rule_looks_where_it_says() -> None:
    policy = small()
    assert policy.decide("give the child the knife").rule == "child"
    assert policy.decide("give the knife of the child").rule == "default"
    assert policy.decide("put the bread saws on the shelf").verdict is Verdict.ASK
    assert policy.decide("the shelf beside the knife").rule == "default"
    assert policy.decide("the cup", Circumstances(people="hand")).matched == {"people": "hand"}
    assert policy.decide("the cup on the shelf", Circumstances(people="hand")).rule == "default"
    assert policy.decide("give the child that", Circumstances(labels=("kitchen knife",))).rule == "child"
    assert small(harmless="butter knife").decide("give the child the butter knife").rule == "default"


def test_an_unknown_action_is_asked_about() -> None:
    policy = small(actions="give, put")
    assert policy.decide("slap the cup").rule == "unknown-action"
    assert policy.decide("put the cup away").verdict is policy.decide("the cup").verdict is Verdict.ALLOW


@pytest.mark.parametrize(
    "change",
    [
        {"rules": []}, {"rules": "x"}, {"groups": []}, {"groups": {"a": 3}}, {"extra": 1},
        {"default": "maybe"},
        {"rules": [{"name": "a", "verdict": "no", "text": "", "object": "sharp"}]},
        {"rules": [{"name": "a", "verdict": "ask", "text": "", "object": "nobody"}]},
        {"rules": [{"name": "a", "verdict": "ask", "text": ""}]},
        {"rules": [{"name": "a", "verdict": "ask", "text": "", "people": "many"}]},
        {"rules": [{"name": "a", "verdict": "ask", "text": "", "object": "sharp", "objects": "sharp"}]},
        {"rules": [*SMALL["rules"], SMALL["rules"][0]]}, {"rules": [3]},
    ],
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=r"small\.yaml"):
        small(**change)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: &a [*a]")
    for name in ("nowhere", str(tmp_path / "none.yaml"), str(tmp_path / "bad.yaml")):
        with pytest.raises(ParameterError):
            Policy.load(name)
    for text in ("", "wanted,request,people\n", "a,b\n1,2\n", "wanted,request,people\nallow,x,crowd\n"):
        (tmp_path / "requests.csv").write_text(text)
        with pytest.raises(ParameterError):
            read_requests(tmp_path / "requests.csv")


def test_presets_are_whole() -> None:
    assert preset_names() == ("home", "lab")
    for name in preset_names():
        assert Policy.load(name).decide("the red mug").verdict is Verdict.ALLOW
        assert Policy.load(name).decide("stab him with the knife").verdict is Verdict.REFUSE


def test_measured_on_the_half_that_was_kept_apart() -> None:
    result = evaluate_policy(HOME, read_requests(REQUESTS, "apart"))
    assert result["requests"] > 150
    assert result["misses"] <= 0.05 and result["false_refusals"] <= 0.05, result["wrong"]


def test_on_requests_in_other_words_it_is_much_worse() -> None:
    """Written after the policy, in words that it does not have. Said in docs/safety.md with these numbers."""
    result = evaluate_policy(HOME, read_requests(REQUESTS.with_name("requests_later.csv")))
    assert result["misses"] <= 0.30 and result["false_refusals"] <= 0.20


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=256))
def test_any_text_has_one_verdict(text: str) -> None:
    assert HOME.decide(text) == HOME.decide(text)


def test_long_requests_take_no_time() -> None:
    start = time.process_time()
    for word in ("give ", "to the child ", "knife ", "a", "\u0301"):
        HOME.decide((word * 300)[:1024])
    assert time.process_time() - start < 0.5


def test_a_group_finds_phrases_of_any_length() -> None:
    group = Group.of("g", ["on fire", "very big box", "cup"])
    assert group.find(tokens("set the very big boxes on fire")) == "very big box"
    assert group.without(tokens("the cup is on fire")) == ("the", "thing", "is", "thing")


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["policy", "check", "give the knife to the child"]) == 0
    assert capsys.readouterr().out.startswith("refuse: Children are not given")
    assert main(["policy", "check", "the cup", "--people", "near", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rule"] == "people-near"
    assert main(["eval", "policy", "--half", "apart"]) == 0
    assert "false refusals" in capsys.readouterr().out
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    assert main(["policy", "check", "the cup", "--policy", str(path)]) == 0
    assert main(["policy", "check", "the cup", "--policy", "nowhere"]) == 2
