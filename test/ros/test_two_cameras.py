"""One node with two cameras: each query is answered about the camera that it names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from ros_helpers import GOOD, SEED, Camera, filming, running

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.node import MolmoNode
from molmo_ros.sim import SimCamera
from molmo_ros.srv import Ground

NAMES = ("front", "wrist")
OTHER_SEED = 7
ROUNDS = 6


@pytest.fixture(scope="module")
def both(context: None) -> Iterator[MolmoNode]:
    names = ["--ros-args", "-r", "__node:=both", "-r", "__ns:=/both"]
    with running({"cameras": list(NAMES), "timeout_s": 60.0}, cli_args=names) as node:
        yield node


@pytest.fixture(scope="module")
def asking(both: MolmoNode) -> Iterator[GraspClient]:
    with GraspClient("/both/both") as client:
        client.wait_ready(120.0)
        yield client


@lru_cache(1)
def front_scene() -> SimCamera:
    return SimCamera(SEED)


def cameras_of(node: MolmoNode, *frames: RgbdFrame) -> list[Camera]:
    return [
        Camera(frame, node, f"/both/{name}", name, f"{name}_optical")
        for name, frame in zip(NAMES, frames, strict=True)
    ]


@pytest.fixture
def shown(both: MolmoNode, frame: RgbdFrame) -> Iterator[list[Camera]]:
    """The two cameras before two scenes; GOOD is in the first alone."""
    cameras = cameras_of(both, frame, SimCamera(OTHER_SEED).frame())
    yield cameras
    for camera in cameras:
        camera.node.destroy_node()


def check(response: Ground.Response, camera: str) -> None:
    """The answer to GOOD is that of this camera's scene."""
    assert response.success, response.message
    if camera == "wrist":
        assert len(response.targets) == 0
        return
    (target,) = response.targets
    assert target.header.frame_id == target.point.header.frame_id == "front_optical"
    truth = front_scene().truth
    seen = truth.ids[round(target.point.y), round(target.point.x)]
    assert truth.objects[seen - 1].name in GOOD


def test_asked_in_turn(shown: list[Camera], asking: GraspClient) -> None:
    for camera in shown:
        camera.show()
    for _ in range(3):  # the first about new images, then about remembered ones
        for name in NAMES:
            check(asking.find(GOOD, camera=name), name)
    check(asking.find(GOOD), NAMES[0])
    assert "no camera 'rear'" in asking.find(GOOD, camera="rear").message


def test_the_same_picture_with_another_depth(both: MolmoNode, frame: RgbdFrame, asking: GraspClient) -> None:
    """What is cached of a picture is the model's view of it, not frame, stamp or depth."""
    further = replace(frame, depth=frame.depth * 1.2)
    cameras = cameras_of(both, frame, further)
    for camera in cameras:
        camera.show()
    near, far = (asking.find(GOOD, camera=name).targets[0] for name in NAMES)
    assert (near.header.frame_id, far.header.frame_id) == ("front_optical", "wrist_optical")
    assert near.header.stamp != far.header.stamp
    assert (near.point.x, near.point.y) == (far.point.x, far.point.y)
    assert far.position.z == pytest.approx(1.2 * near.position.z, rel=0.02)
    for camera in cameras:
        camera.node.destroy_node()


def test_two_clients_at_a_time_share_the_worker(shown: list[Camera], asking: GraspClient) -> None:
    """Each of two clients that keep asking gets about every second turn, and answers about its own camera."""
    for camera in shown:
        camera.show()
    order: list[str] = []
    failures: list[AssertionError] = []

    def ask(name: str) -> None:
        with GraspClient("/both/both") as client:
            client.wait_ready()
            barrier.wait()
            for _ in range(ROUNDS):
                response = client.find(GOOD, camera=name)
                order.append(name)
                try:
                    check(response, name)
                except AssertionError as error:
                    failures.append(error)

    front_scene()
    barrier = threading.Barrier(len(NAMES))
    threads = [threading.Thread(target=ask, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(180.0)
    assert not failures, failures[0]
    assert len(order) == ROUNDS * len(NAMES)
    first = next(i for i in range(len(order)) if order[: i + 1].count(order[i]) == ROUNDS)
    assert first + 1 - ROUNDS >= ROUNDS // 2, order


@pytest.fixture
def filmed(shown: list[Camera], asking: GraspClient) -> Iterator[None]:
    """Both cameras send frames, and the node is ready."""
    with ExitStack() as stack:
        for camera in shown:
            stack.enter_context(filming(camera, 3.0))
        yield


def test_a_page_chooses_the_camera(filmed: None) -> None:
    pytest.importorskip("starlette", reason="the packages of requirements/web.txt are not installed here")
    from web_server import Page, served

    from molmo_ros.ros.web_node import NodeSource

    with served(NodeSource("/both/both")) as (access, _), Page(access) as page:
        cameras = page.has("cameras", timeout_s=60.0)
        assert (cameras["names"], cameras["shown"]) == (list(NAMES), "front")
        page.has("live", lambda live: live[0]["frame_id"] == "front_optical", 60.0)
        assert page.request("ground", GOOD)["message"] == "1 found"
        page.has("answer", lambda answer: answer["optical"] == "front_optical")
        assert page.request("show", "wrist")["success"]
        page.until("live", lambda live: live[0]["frame_id"] == "wrist_optical", 60.0)
        page.until("scene", lambda scene: scene[0]["frame_id"] == "wrist_optical", 60.0)
        assert page.newest["cameras"]["shown"] == "wrist"
        assert page.request("ground", GOOD)["message"] == "not there"
        wrong = page.request("show", "rear")
        assert wrong["code"] == "BAD_PARAMETER" and "it has front, wrist" in wrong["message"]


def test_the_camera_is_chosen_in_a_browser(filmed: None, tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the packages of requirements/web.txt are not installed here")
    from chromium import CHROMIUM, chromium
    from web_server import served

    from molmo_ros.ros.web_node import NodeSource

    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with served(NodeSource("/both/both")) as (access, _), chromium() as browser, browser.tab() as tab:
        tab.go(access.url)
        tab.until("document.querySelector('#camera').textContent === 'frontwrist'")
        tab.until("document.querySelector('#space-caption').textContent.includes('points in front_optical')")
        assert not tab.value("document.querySelector('#cameras').hidden")
        tab.value(
            "(() => { const s = document.querySelector('#camera'); s.value = 'wrist';"
            " s.dispatchEvent(new Event('change')); })()"
        )
        tab.until("document.querySelector('#space-caption').textContent.includes('points in wrist_optical')")
        tab.screenshot(tmp_path / "wrist.png")
        assert tab.value("document.querySelector('#camera').value") == "wrist"
        assert tab.problems == [] or all("WebGL" in text for text in tab.problems), tab.problems
