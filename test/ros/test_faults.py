"""Faults of the surroundings: cameras that die, do not fit or never were there; calls at a bad moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_helpers import GOOD, Camera, Spinning
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from molmo_ros.errors import FrameError
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.node import MolmoNode

NEVER = NodeConfig(frame_wait_s=1.0, max_frame_age_s=60.0)


@pytest.fixture
def pair(context: None) -> Iterator[tuple[Node, Node]]:
    """Two nodes apart from the others: one to look, one to send."""
    nodes = Node("looks", namespace="/faults"), Node("sends", namespace="/faults")
    yield nodes
    for node in nodes:
        node.destroy_node()


def why_none(camera: CameraInput, say: str) -> str:
    """What the camera says about its frames, once the ROS graph is complete enough."""
    give_up, text = time.monotonic() + 60.0, ""
    while time.monotonic() < give_up and say not in text:
        with pytest.raises(FrameError) as caught:
            camera.newest_frame(NodeConfig(frame_wait_s=0.1), lambda: False)
        text = str(caught.value)
    return text


def test_camera_of_incompatible_qos_is_named(pair: tuple[Node, Node]) -> None:
    looks, sends = pair
    reliable = Parameter("qos_overrides./faults/image.subscription.reliability", value="reliable")
    looks.destroy_node()
    looks = Node("looks", namespace="/faults", parameter_overrides=[reliable])
    camera = CameraInput(looks, "", NEVER)
    sends.create_publisher(Image, "image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    text = why_none(camera, "incompatible")
    looks.destroy_node()
    assert "/faults/image has sent nothing yet" in text
    assert "QoS of sends is incompatible" in text
    assert "qos_overrides./faults/image.subscription.reliability" in text


def test_topic_of_another_type_is_named(pair: tuple[Node, Node]) -> None:
    apart = Context()  # one participant has one type for a topic
    rclpy.init(context=apart)
    writer = Node("writes", namespace="/faults", context=apart)
    writer.create_publisher(String, "image", 1)
    text = why_none(CameraInput(pair[0], "", NEVER), "writes publishes")
    writer.destroy_node()
    apart.try_shutdown()
    assert "writes publishes std_msgs/msg/String, not sensor_msgs/msg/Image" in text
    assert "remap" in text


def test_remapped_topic_is_named_as_it_is(pair: tuple[Node, Node]) -> None:
    remapped = Node("remapped", cli_args=["--ros-args", "-r", "image:=/nose/rgb"])
    text = why_none(CameraInput(remapped, "", NEVER), "/nose/rgb")
    remapped.destroy_node()
    assert "Topic /nose/rgb has sent nothing yet: nobody publishes it" in text


def test_camera_that_dies_is_missed_and_welcomed_back(
    camera: Camera, client: GraspClient, setting: Callable[..., None]
) -> None:
    camera.show()
    assert client.find(GOOD).success
    setting(max_frame_age_s=0.3, frame_wait_s=0.1)
    time.sleep(0.5)
    response = client.find(GOOD)
    assert (response.success, response.code) == (False, "BAD_FRAME")
    assert "silent" in response.message
    setting(max_frame_age_s=60.0)
    camera.show()
    assert client.find(GOOD).success


def test_second_question_about_the_same_image(camera: Camera, client: GraspClient, molmo: MolmoNode) -> None:
    """The stamp of an answer names its image, also when newer ones have come since."""
    camera.show()
    first = client.find(GOOD)
    stamp = first.targets[0].header.stamp
    for _ in range(12):
        camera.show()
    again = client.find(GOOD, stamp=stamp)
    assert again.success, again.message
    assert again.targets[0].header.stamp == stamp
    assert [t.position for t in again.targets] == [t.position for t in first.targets]
    newest = client.find(GOOD)
    assert newest.targets[0].header.stamp != stamp
    gone = client.find(GOOD, stamp=type(stamp)(sec=stamp.sec - 100))
    assert (gone.success, gone.code) == (False, "BAD_FRAME")
    assert "not here any more" in gone.message


@pytest.fixture
def lone(context: None) -> Iterator[tuple[MolmoNode, GraspClient]]:
    """A node on topics that nobody publishes."""
    names = ["--ros-args", "-r", "__node:=lone", "-r", "__ns:=/island"]
    overrides = [Parameter("autostart", value=False), Parameter("frame_wait_s", value=0.2)]
    node = MolmoNode(parameter_overrides=overrides, cli_args=names)
    spinning = Spinning(node, MultiThreadedExecutor(8))
    with GraspClient("/island/lone") as client:
        yield node, client
    spinning.stop()
    node.destroy_node()


def test_activation_without_a_camera(lone: tuple[MolmoNode, GraspClient]) -> None:
    node, client = lone
    node.trigger_configure()
    node.trigger_activate()
    response = client.find(GOOD)
    assert (response.success, response.code) == (False, "BAD_FRAME")
    assert "/island/image has sent nothing yet: nobody publishes it" in response.message


def test_calls_while_cleaning_up_are_answered(lone: tuple[MolmoNode, GraspClient]) -> None:
    """Activated and cleaned up again and again under load: each call gets an answer in words, and the node
    lives on."""
    node, client = lone
    codes: list[str] = []
    end = threading.Event()

    def rounds() -> None:
        for _ in range(4):
            node.trigger_configure()
            node.trigger_activate()
            node.trigger_deactivate()
            node.trigger_cleanup()
        end.set()

    thread = threading.Thread(target=rounds)
    thread.start()
    while not end.is_set():
        response = client.find(GOOD)
        assert not response.success
        codes.append(response.code)
    thread.join()
    assert set(codes) <= {"NOT_READY", "BAD_FRAME", "CANCELLED"}
    assert client.find(GOOD).code == "NOT_READY"


def test_simulated_time_that_jumps_back(pair: tuple[Node, Node]) -> None:
    """A simulation that restarts: frames of the second round are used, by the clock of that round."""
    _, sends = pair
    looks = Node(
        "sim_looks", namespace="/faults", parameter_overrides=[Parameter("use_sim_time", value=True)]
    )
    spinning = Spinning(looks, MultiThreadedExecutor(2))
    eye = CameraInput(looks, "", NEVER)
    clock = sends.create_publisher(Clock, "/clock", 10)
    make = [sends.create_publisher(kind, topic, 5) for topic, kind in KINDS]
    try:
        for now_s in (100, 5):
            _show_until(eye, looks, clock, make, now_s)
            assert eye.newer_frame(0 if now_s == 100 else 100_000_000_000, 0, NEVER) is not None
    finally:
        spinning.stop()
        looks.destroy_node()


KINDS: list[tuple[str, Any]] = [("image", Image), ("depth", Image), ("camera_info", CameraInfo)]


def _show_until(eye: CameraInput, looks: Node, clock: Any, make: list[Any], now_s: int) -> None:
    """Publish time and a small frame until both have arrived."""
    give_up = time.monotonic() + 60.0
    while time.monotonic() < give_up:
        message = Clock()
        message.clock.sec = now_s
        clock.publish(message)
        for publisher, small in zip(make, _small(now_s), strict=True):
            publisher.publish(small)
        time.sleep(0.05)
        eye.collect()
        triple = eye.pairer.newest()
        arrived = triple is not None and triple.stamp_ns == now_s * 10**9
        if arrived and looks.get_clock().now().nanoseconds == now_s * 10**9:
            return
    raise AssertionError(f"neither time nor frame of {now_s} s came through")


def _small(now_s: int) -> tuple[Image, Image, CameraInfo]:
    import numpy as np

    from molmo_ros.camera.conversions import camera_info_message, depth_message, image_message
    from molmo_ros.ros.messages import make_header

    header = make_header("eye", now_s * 10**9)
    K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
    return (
        image_message(np.zeros((48, 64, 3), np.uint8), "rgb8", header),
        depth_message(np.ones((48, 64), np.float32), header),
        camera_info_message(K, 64, 48, header),
    )
