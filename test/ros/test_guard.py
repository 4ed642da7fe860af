"""Limits, lease and policy in the running node: what goes to ~/grasp_pose, and what comes back instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty_server import events, faulty_server
from geometry_msgs.msg import PoseStamped
from rclpy.parameter import Parameter
from ros_helpers import GOOD, Camera, running
from std_msgs.msg import Empty

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.msg import GraspTarget
from molmo_ros.policy.judge import Judge
from molmo_ros.policy.policy import Policy, parse_policy
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.node import MolmoNode
from molmo_ros.runtimes.remote.words import RemoteWords


class Poses:
    """What came on ~/grasp_pose."""

    def __init__(self, client: GraspClient) -> None:
        self._client, self.found = client, 0
        self._subscription = client.node.create_subscription(PoseStamped, "/molmo/grasp_pose", self._take, 10)
        deadline = time.monotonic() + 60.0
        while client.node.count_publishers("/molmo/grasp_pose") == 0 and time.monotonic() < deadline:
            client.spin(0.1)

    def _take(self, _: PoseStamped) -> None:
        self.found += 1

    def count(self, wanted: int = 0) -> int:
        """How many arrived since the last call; waits for the expected number, then half a second for any
        more."""
        deadline = time.monotonic() + 60.0
        while self.found < wanted and time.monotonic() < deadline:
            self._client.spin(0.05)
        self._client.spin(0.5)
        found, self.found = self.found, 0
        return found


@pytest.fixture
def poses(client: GraspClient) -> Iterator[Poses]:
    poses = Poses(client)
    yield poses
    client.node.destroy_subscription(poses._subscription)


def ask(client: GraspClient, stamp: object = None) -> list[GraspTarget]:
    response = client.find(GOOD, timeout_s=60.0, stamp=stamp)
    assert response.success, response.message
    return list(response.targets)


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"workspace": "-1 -1 -1 1 1 0.1"}, "OUT_OF_WORKSPACE"),
        ({"keep_out": ["-5 -5 -5 5 5 5"]}, "KEEP_OUT"),
        ({"max_sigma": 1e-6}, "UNCERTAIN"),
        ({"max_target_age_s": 0.01}, "STALE"),
        ({"min_confidence": 1.0}, "UNCERTAIN"),
        ({"min_quality": 1.0}, "LOW_QUALITY"),
        ({"lease_s": 5.0}, "NO_LEASE"),
        ({"limits_frame": "nowhere", "tf_wait_s": 0.0}, "NO_TRANSFORM"),
    ],
)
def test_a_target_beyond_a_limit_comes_back_and_is_not_sent(
    values: dict[str, object], status: str, client: GraspClient, camera: Camera, poses: Poses,
    setting: Callable[..., None],
) -> None:  # fmt: skip
    camera.show()
    assert ask(client)[0].status == GraspTarget.OK and poses.count(1) == 1
    setting(**values)
    camera.show()
    (target, *_) = ask(client)
    assert target.status == getattr(GraspTarget, status) and target.status_text
    assert poses.count() == 0


def test_an_old_stamp_gives_stale_targets(
    client: GraspClient, camera: Camera, poses: Poses, setting: Callable[..., None]
) -> None:
    """The camera has stopped, and somebody asks about the last image again."""
    camera.show()
    (first, *_) = ask(client)
    assert poses.count(1) == 1
    setting(max_target_age_s=1.0)
    time.sleep(1.2)
    (again, *_) = ask(client, stamp=first.header.stamp)
    assert again.status == GraspTarget.STALE and again.age > 1.0
    assert poses.count() == 0


def test_a_lease_that_is_renewed(
    client: GraspClient, camera: Camera, poses: Poses, setting: Callable[..., None]
) -> None:
    setting(lease_s=60.0)
    publisher = client.node.create_publisher(Empty, "/molmo/lease", 1)
    camera.show()
    deadline = time.monotonic() + 60.0
    while ask(client)[0].status != GraspTarget.OK:
        assert time.monotonic() < deadline
        publisher.publish(Empty())
        client.spin(0.2)
        camera.show()
    assert poses.count(1) == 1


def test_a_box_that_is_none_is_refused(molmo: MolmoNode) -> None:
    (result,) = molmo.set_parameters([Parameter("workspace", value="1 2 3")])
    assert not result.successful and "workspace" in result.reason
    assert molmo.config.workspace == ""


def test_the_policy_refuses_and_says_why(
    client: GraspClient, camera: Camera, poses: Poses, molmo: MolmoNode, monkeypatch: pytest.MonkeyPatch,
    setting: Callable[..., None],
) -> None:  # fmt: skip
    monkeypatch.setattr(molmo.guard, "policy", Policy.load("home"))
    setting(policy_people=False)
    camera.show()
    assert ask(client)[0].status == GraspTarget.OK and poses.count(1) == 1
    monkeypatch.setattr(molmo.guard, "policy", _refusing("bowl"))
    camera.show()
    response = client.find(GOOD, timeout_s=60.0)
    assert (response.success, response.code) == (False, "REFUSED_BY_POLICY")
    assert "rule no-bowls" in response.message and not response.targets
    assert poses.count() == 0


@pytest.mark.parametrize(
    ("words", "code"), [("<class>-1</class> <text>No</text>", "REFUSED_BY_POLICY"), ("?", "JUDGE_SILENT")]
)
def test_the_judge_refuses_and_its_silence_too(
    client: GraspClient, camera: Camera, poses: Poses, molmo: MolmoNode, monkeypatch: pytest.MonkeyPatch,
    setting: Callable[..., None], words: str, code: str,
) -> None:  # fmt: skip
    setting(policy_people=False)
    with faulty_server() as server:
        server.acts = [events(words)]
        monkeypatch.setattr(molmo.guard, "judge", Judge(RemoteWords(server.url, "m", 5.0, "NO_KEY").ask))
        camera.show()
        response = client.find(GOOD, timeout_s=60.0)
    assert (response.success, response.code, len(response.targets)) == (False, code, 0)
    assert "udge" in response.message and poses.count() == 0
    assert GOOD in server.bodies[0]["messages"][-1]["content"]


def test_a_node_with_a_judge_that_is_away_says_so(context: None, frame: RgbdFrame) -> None:
    away = {"judge_url": "http://127.0.0.1:9/v1", "judge_model": "m"}
    with running(away, namespace="/judged") as node, GraspClient("/judged/molmo") as other:
        other.wait_ready(120.0)
        eye = Camera(frame, node, namespace="/judged")
        eye.show()
        response = other.find(GOOD, timeout_s=60.0)
        eye.node.destroy_node()
    assert (response.code, response.success) == ("JUDGE_SILENT", False)
    assert "connection refused" in response.message


def _refusing(word: str) -> Policy:
    rule = {"name": f"no-{word}s", "verdict": "refuse", "text": "Not here.", "object": "thing"}
    return parse_policy({"name": "test", "groups": {"thing": word}, "rules": [rule]}, Path("test.yaml"))
