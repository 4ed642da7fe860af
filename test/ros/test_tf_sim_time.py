"""tf and simulated time: a clock that jumps back (a bag that loops, a simulation that starts anew)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rclpy.node import Node
from ros_helpers import FRAME, GOOD, Camera, running
from rosgraph_msgs.msg import Clock

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.messages import make_header
from molmo_ros.ros.node import MolmoNode

tf2_ros = pytest.importorskip(
    "tf2_ros", reason="tf2_ros is not installed here; it comes with a robot's ROS 2"
)
NS = 1_000_000_000
STEP_NS = NS // 50
HEIGHT_M = 2.0  # of base_link in the map


class World:
    """/clock and tf at 50 Hz; the camera's x in base_link is the time in seconds at which a round began."""

    def __init__(self, node: Node) -> None:
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._tf = tf2_ros.TransformBroadcaster(node)
        self._static = tf2_ros.StaticTransformBroadcaster(node)
        self._static.sendTransform(_transform("map", "base_link", 0, z=HEIGHT_M))
        self.now_ns, self._began_ns = 0, 0
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin(self, at_s: int) -> None:
        with self._lock:
            self.now_ns = self._began_ns = at_s * NS

    def _run(self) -> None:
        while not self._end.wait(0.02):
            with self._lock:
                self.now_ns += STEP_NS
                message = Clock()
                message.clock = make_header("", self.now_ns).stamp
                self._clock.publish(message)
                x = self._began_ns / NS
                self._tf.sendTransform(_transform("base_link", FRAME, self.now_ns, x=x))

    def close(self) -> None:
        self._end.set()
        self._thread.join(2.0)


def _transform(parent: str, child: str, stamp_ns: int, x: float = 0.0, z: float = 0.0) -> object:
    from geometry_msgs.msg import TransformStamped

    message = TransformStamped(header=make_header(parent, stamp_ns), child_frame_id=child)
    message.transform.translation.x, message.transform.translation.z = x, z
    return message


@pytest.fixture
def sim(context: None) -> Iterator[tuple[MolmoNode, World]]:
    sender = Node("world", namespace="/in_sim")
    world = World(sender)
    settings = {"use_sim_time": True, "tf_wait_s": 2.0, "target_frame": "base_link"}
    names = ["--ros-args", "-r", "__node:=in_sim", "-r", "__ns:=/in_sim"]
    with running(settings, cli_args=names) as node:
        yield node, world
        world.close()
    sender.destroy_node()


def _wait(until: Callable[[], bool]) -> None:
    for _ in range(500):
        if until():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not happen within 10 s")


def test_transforms_after_a_jump_back(sim: tuple[MolmoNode, World], frame: RgbdFrame) -> None:
    node, world = sim
    camera = Camera(frame, node, "/in_sim")
    with GraspClient("/in_sim/in_sim") as client:
        client.wait_ready(60.0)
        for began_s in (100, 40, 5):  # tf2 would refuse all of the later rounds as too old
            world.begin(began_s)
            _wait(lambda: 0 < (node.get_clock().now().nanoseconds - world._began_ns) / NS < 5)
            threading.Event().wait(0.3)  # the first transforms may have come before the clock
            stamp = make_header("", world.now_ns).stamp

            def stamped(*messages: Any) -> None:
                for message in messages:
                    message.header.stamp = stamp  # noqa: B023  (called at once)

            camera.show(stamped)
            there = client.find(GOOD)
            assert there.success, there.message
            target = there.targets[0]
            assert (target.header.frame_id, target.header.stamp) == ("base_link", stamp)
            seen = client.find(GOOD, target_frame=FRAME, stamp=stamp).targets[0]
            assert target.position.x == pytest.approx(seen.position.x + began_s, abs=1e-6)
            up = client.find(GOOD, target_frame="map", stamp=stamp)  # what is static has survived
            assert up.targets[0].position.z == pytest.approx(seen.position.z + HEIGHT_M, abs=1e-6)
    camera.node.destroy_node()
