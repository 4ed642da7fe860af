"""save_dir: the node writes queries as eval objects reads them; a folder it cannot write does no harm."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ros_helpers import ABSENT, GOOD, Camera, running
from std_srvs.srv import Trigger

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.node import MolmoNode
from molmo_ros.tools.objects.layout import Recorded, read_folder

NAMESPACE = "saving"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved") / "queries"


@pytest.fixture(scope="module")
def node(context: None, folder: Path) -> Iterator[MolmoNode]:
    settings = {"timeout_s": 60.0, "save_dir": str(folder), "save_max_count": 3}
    with running(settings, namespace=NAMESPACE) as node:
        yield node


@pytest.fixture(scope="module")
def asker(node: MolmoNode, frame: RgbdFrame) -> Iterator[GraspClient]:
    camera = Camera(frame, node, namespace=NAMESPACE)
    with GraspClient(f"/{NAMESPACE}/molmo") as client:
        client.wait_ready(120.0)
        camera.show()
        yield client
    camera.node.destroy_node()


def saved(folder: Path, count: int) -> list[Recorded]:
    """What is in the folder once so many are."""
    deadline = time.monotonic() + 60.0
    while len(list(folder.glob("*_points.json"))) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return list(read_folder(folder))


def save(client: GraspClient) -> Trigger.Response:
    service = client.node.create_client(Trigger, f"/{NAMESPACE}/molmo/save")
    try:
        response: Trigger.Response = client._call(service, Trigger.Request(), 0.0, 60.0)
    finally:
        client.node.destroy_client(service)
    return response


def test_failures_are_saved_and_the_rest_when_asked_for(asker: GraspClient, folder: Path) -> None:
    assert not save(asker).success
    assert asker.find(ABSENT, timeout_s=60.0).success
    (absent,) = saved(folder, 1)
    assert absent.name.endswith("_the_blue_banana") and absent.points == ()

    response = asker.find(GOOD, timeout_s=60.0)
    assert response.targets[0].status == response.targets[0].OK
    time.sleep(0.5)
    assert len(saved(folder, 1)) == 1  # it did not fail
    answer = save(asker)
    assert answer.success and answer.message.startswith(str(folder))
    names = {one.name: one for one in saved(folder, 2)}
    (point,) = names[Path(answer.message).name].points
    seen = response.targets[0].point
    assert (point.x, point.y) == pytest.approx((seen.x, seen.y)) and point.name == "white bowl"


def test_a_folder_that_is_full_or_gone_is_told_and_the_node_answers(asker: GraspClient, folder: Path) -> None:
    assert asker.find(GOOD, timeout_s=60.0).success
    assert save(asker).success
    full = save(asker)
    assert not full.success and "3 queries of at most 3" in full.message
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("no folder")
    gone = save(asker)
    assert not gone.success and "choose a folder" in gone.message
    assert asker.find(ABSENT, timeout_s=60.0).success
    assert asker.find(GOOD, timeout_s=60.0).success
