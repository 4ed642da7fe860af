"""What is made of a server's answer: text, points, confidence, grasps."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest
from faulty_server import ONE, Faulty, events, remote, status
from toy_scene import make_frame

from molmo_ros.datatypes import TargetStatus
from molmo_ros.errors import AnswerError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.pipeline import Grounder
from molmo_ros.runtimes.remote.chat import data_url

RGB = make_frame(160, 120)[0].rgb


def test_an_answer_becomes_points_without_confidence(faulty: Faulty) -> None:
    faulty.acts = [events("<points", ' coords="1 1 500', ' 500">', "can", "</points>")]
    answer = remote(faulty).point(RGB, "Point to the can.", label="can")
    assert answer.text == ONE
    (point,) = answer.points
    assert (point.x, point.y, point.label) == (79.5, 59.5, "can")  # 0.5 * 160 - 0.5
    assert math.isnan(point.confidence) and np.isnan(point.covariance).all()
    assert {"preprocess", "prefill", "decode"} == answer.stages_ms.keys()
    (body,) = faulty.bodies
    picture, words = body["messages"][0]["content"]
    assert words == {"type": "text", "text": "Point to the can."} and body["temperature"] == 0.0
    assert picture["image_url"]["url"] == data_url(RGB, "png")


def test_a_pointing_answer_ends_with_its_coordinates(faulty: Faulty) -> None:
    """What follows is not waited for, and the server notices."""
    faulty.acts = [events('<points coords="1 1 500 500">', *["x"] * 500, pause_s=0.02)]
    start = time.monotonic()
    assert remote(faulty).point(RGB, "Point to the can.", label="can").text == ONE
    assert time.monotonic() - start < 5.0 and faulty.broken.wait(5.0)


def test_a_server_that_does_not_stream(faulty: Faulty) -> None:
    message = {"choices": [{"message": {"content": "Two mugs."}, "finish_reason": "stop"}]}
    faulty.acts = [status(200, json.dumps(message, indent=2))]
    assert remote(faulty).answer(RGB, "What is there?").text == "Two mugs."


def test_probabilities_that_come_along_are_used(faulty: Faulty) -> None:
    def logprobs(part: str) -> dict[str, Any]:
        others = [{"token": d, "logprob": math.log(0.02)} for d in "1234"] if part.isdigit() else []
        p = math.log(0.9 if part.isdigit() else 0.99)
        return {"content": [{"token": part, "logprob": p, "top_logprobs": others}]}

    pieces = ['<points coords="1', " 1", " ", *"500", " ", *"500", '">', "can", "</points>"]
    faulty.acts = [events(*pieces, logprobs=logprobs)]
    (point,) = remote(faulty).point(RGB, "Point to the can.", label="can").points
    assert 0.3 < point.confidence < 0.95 and (np.diag(point.covariance) > 0).all()
    assert faulty.bodies[0]["logprobs"] is True


def test_a_server_that_refuses_probabilities_is_asked_without(faulty: Faulty) -> None:
    faulty.acts = [status(400, '{"error": "logprobs are not supported"}'), events(ONE)]
    model = remote(faulty)
    assert len(model.point(RGB, "Point to the can.", label="can").points) == 1
    model.point(RGB, "Point to the can.", label="can")
    assert ["logprobs" in body for body in faulty.bodies] == [True, False, False]


def test_molmo_of_2024_points_in_per_cent(faulty: Faulty) -> None:
    faulty.acts = [events(' <point x="50.0" y="25.0" alt="can">can</point>')]
    (point,) = remote(faulty, format="molmo1").point(RGB, "Point to the can.", label="can").points
    assert (point.x, point.y) == (79.5, 29.5)


def test_nonsense_is_not_mistaken_for_not_there(faulty: Faulty) -> None:
    faulty.acts = [events('<points coords="1 1 9999 9999">can</points>')]
    with pytest.raises(AnswerError):
        Grounder(remote(faulty), Gripper.load("franka_hand")).point(RGB, "the can")


def test_unknown_confidence_goes_all_the_way_to_a_grasp(faulty: Faulty) -> None:
    """What is not known stays NaN, and breaks nothing."""
    from molmo_ros.sim import SimCamera

    frame, query = SimCamera(0).frame(), "the white bowl"
    local = Grounder.load().grasp(frame, query)
    assert local.targets and local.targets[0].status is TargetStatus.OK
    faulty.acts = [events(local.answer.text)]
    grounder = Grounder(remote(faulty), Gripper.load("franka_hand"))
    target = grounder.grasp(frame, query).targets[0]
    assert target.status is TargetStatus.OK and target.grasp is not None
    assert target.covariance is not None and np.isnan(target.covariance).all()
    assert np.allclose(target.position, local.targets[0].position)


def test_gemini_is_told_the_format_and_read_by_its_name(faulty: Faulty) -> None:
    faulty.acts = [events('[{"point": [250, 500],', ' "label": "can"}', "]", *["x"] * 300, pause_s=0.01)]
    model = remote(faulty, model="gemini-robotics-er-1.5-preview")
    (point,) = model.point(RGB, "Point to the can.", label="can").points
    assert (point.x, point.y, point.label) == (79.5, 29.5, "can") and math.isnan(point.confidence)
    assert faulty.broken.wait(5.0)  # what follows the list is not waited for
    words = faulty.bodies[0]["messages"][0]["content"][1]["text"]
    assert words.startswith("Point to the can. ") and '{"point": [y, x]' in words


def test_geminis_empty_list_is_not_there_and_prose_is_an_error(faulty: Faulty) -> None:
    faulty.acts = [events("```json\n[]\n```"), events("I see a can at the left.")]
    grounder = Grounder(remote(faulty, format="gemini"), Gripper.load("franka_hand"))
    assert grounder.point(RGB, "the can").points == ()
    with pytest.raises(AnswerError, match="I see a can"):
        grounder.point(RGB, "the can")


def test_a_free_question_to_gemini_goes_out_as_it_is(faulty: Faulty) -> None:
    faulty.acts = [events("Two.")]
    assert remote(faulty, format="gemini").answer(RGB, "How many cans?").text == "Two."
    assert faulty.bodies[0]["messages"][0]["content"][1]["text"] == "How many cans?"
