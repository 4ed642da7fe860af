"""The web view of a real node: what a page asks goes the node's own way, and nothing is heard unseen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("starlette", reason="the packages of requirements/web.txt are not installed here")
pytest.importorskip("websockets")
from ros_helpers import ABSENT, GOOD, Camera, running
from web_server import Page, served

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.errors import ParameterError
from molmo_ros.ros import bringup
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.node import MolmoNode
from molmo_ros.ros.web_node import NodeSource
from molmo_ros.web.app import LINGER_S

TOPICS = ("/image", "/depth", "/molmo/annotated", "/molmo/object_points", "/molmo/targets")


@contextmanager
def showing(camera: Camera) -> Iterator[None]:
    """The camera sends a frame a few times a second."""
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.2):
            camera.publish(*camera.messages())

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def page(client: GraspClient, camera: Camera) -> Iterator[Page]:
    """An open page of the node that all tests share."""
    with served(NodeSource("/molmo")) as (access, _), showing(camera), Page(access) as page:
        page.has("status", lambda status: status["level"] == "ok", 60.0)
        page.until("scene", timeout_s=60.0)
        yield page


def test_a_query_comes_back_as_the_services_answer(page: Page, client: GraspClient) -> None:
    reply = page.request("ground", GOOD)
    assert reply["success"], reply["message"]
    answer = page.has("answer", lambda answer: answer["query"] == GOOD)
    (target,) = answer["targets"]
    (same,) = client.find(GOOD, timeout_s=60.0).targets
    assert (
        target["status"] == "OK"
        and target["frame_id"] == answer["frame_id"] == page.newest["scene"][0]["frame_id"]
    )
    assert target["position"] == pytest.approx([same.position.x, same.position.y, same.position.z], abs=0.01)
    page.has("object", lambda content: content[0]["count"] > 100)  # before, that of an earlier answer
    assert page.has("answer_image")[0]["width"] == 640
    assert page.newest["gripper"]["name"] and page.newest["live"][0]["height"] == 480
    page.has("latency", lambda latency: latency["stages"].get("total", [0])[0] > 0)
    names = [status["name"] for status in page.newest["diagnostics"]["statuses"]]
    assert names == ["molmo: model", "molmo: camera", "molmo: latency"]
    page.has("history", lambda told: told["entries"][-1]["query"] == GOOD)


def test_absent_refused_and_limited(page: Page, setting: Callable[..., None]) -> None:
    assert page.request("ground", ABSENT)["message"] == "not there"
    page.has("answer", lambda answer: answer["targets"] == [])
    assert page.request("ground", "  ")["code"] == "BAD_QUERY"
    assert page.request("move", "next")["code"] == "BAD_PARAMETER"
    assert "save_dir" in page.request("save")["message"]
    setting(workspace="-1 -1 -1 1 1 0.1")  # a page gets no farther than anybody else
    assert page.request("ground", GOOD)["message"] == "1 found"
    answer = page.has("answer", lambda answer: answer["query"] == GOOD and answer["targets"][0]["limited"])
    assert answer["targets"][0]["status"] == "OUT_OF_WORKSPACE"


def test_a_question_and_a_track(page: Page) -> None:
    assert page.request("ask", "How many bowls are there?")["answer"]
    page.send({"type": "request", "number": 1000, "action": "track", "text": GOOD})
    page.has("track", lambda track: track["running"] and track.get("stage") == "following", 60.0)
    page.has("answer", lambda answer: answer["following"])
    assert page.request("track", GOOD)["code"] == "BUSY"
    assert page.request("cancel")["success"]
    ended = page.until("reply", lambda reply: reply["number"] == 1000)
    assert ended["success"] and ended["message"] == "stopped"
    page.has("track", lambda track: not track["running"])


def test_nothing_is_subscribed_to_unless_a_page_shows_it(
    molmo: MolmoNode, client: GraspClient, camera: Camera
) -> None:
    def listeners() -> dict[str, int]:
        return {topic: molmo.count_subscribers(topic) for topic in TOPICS}

    def until(wanted: dict[str, int]) -> None:
        deadline = time.monotonic() + 60.0
        while listeners() != wanted and time.monotonic() < deadline:
            time.sleep(0.1)
        assert listeners() == wanted

    def settle() -> None:
        seen, since = listeners(), time.monotonic()
        while time.monotonic() - since < LINGER_S + 1.0:
            time.sleep(0.1)
            if listeners() != seen:
                seen, since = listeners(), time.monotonic()

    settle()  # the page of other tests may linger
    source = NodeSource("/molmo")
    with served(source) as (access, _):
        before = listeners()
        with Page(access, []) as hidden:
            hidden.has("status", lambda status: status["level"] == "ok", 60.0)
            until({**{topic: n + 1 for topic, n in before.items()}, **{t: before[t] for t in TOPICS[:2]}})
            hidden.send({"type": "shows", "kinds": ["scene"]})
            until({topic: n + 1 for topic, n in before.items()})
        until(before)


def test_a_node_that_ends_and_starts_again(context: None, frame: RgbdFrame) -> None:
    space, settings = "restarted", {"timeout_s": 60.0}
    with served(NodeSource(f"/{space}/molmo")) as (access, _), Page(access) as page:
        page.has("status", lambda status: "There is no node /restarted/molmo" in status["text"], 60.0)
        assert "ROS_DOMAIN_ID" in page.request("ground", GOOD)["message"]
        for _ in range(2):
            with running(settings, namespace=space) as node:
                camera = Camera(frame, node, namespace=space)
                with showing(camera):
                    page.has("status", lambda status: status["level"] == "ok", 90.0)
                    deadline = time.monotonic() + 60.0
                    while not (reply := page.request("ground", GOOD))["success"]:
                        assert time.monotonic() < deadline, reply
                    assert page.has("answer")["targets"]
                camera.node.destroy_node()
            page.has("status", lambda status: status["level"] == "error", 60.0)


def test_arguments_of_the_launch_files() -> None:
    values = {"namespace": "/arm1/", "web_host": "0.0.0.0", "web_port": "0"}
    assert bringup.web_arguments(values) == ["--node", "/arm1/molmo", "--host", "0.0.0.0", "--port", "0"]
    assert bringup.web_arguments({**values, "namespace": ""})[1] == "/molmo"
    for port in ("70000", "-1", "x", ""):
        with pytest.raises(ParameterError, match="web_port"):
            bringup.web_arguments({**values, "web_port": port})
    bringup.need_web()
