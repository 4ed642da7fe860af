"""Real nodes over real DDS, in a domain of this test session's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed here")
pytest.importorskip("molmo_ros.msg", reason="the messages are not built here (colcon build)")

from molmo_ros.ros.distribution import on_this_machine  # noqa: E402  (no test here works without ROS)

os.environ.update(on_this_machine(os.environ))

if TYPE_CHECKING:
    from ros_helpers import Camera

    from molmo_ros.datatypes import RgbdFrame
    from molmo_ros.ros.client import GraspClient
    from molmo_ros.ros.node import MolmoNode


@pytest.fixture(scope="session")
def context() -> Iterator[None]:
    if not rclpy.ok():  # a client of an earlier test may have begun
        rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope="session")
def frame() -> RgbdFrame:
    """What the simulated camera sees."""
    from ros_helpers import SEED

    from molmo_ros.sim import SimCamera

    return SimCamera(SEED).frame()


@pytest.fixture(scope="session")
def molmo(context: None) -> Iterator[MolmoNode]:
    """The node with the built-in model, brought up by itself."""
    from ros_helpers import running

    with running({"timeout_s": 60.0}) as node:
        yield node


@pytest.fixture(scope="session")
def camera(frame: RgbdFrame, molmo: MolmoNode) -> Iterator[Camera]:
    """A camera that shows what it is told to."""
    from ros_helpers import Camera

    camera = Camera(frame, molmo)
    yield camera
    camera.node.destroy_node()


@pytest.fixture(scope="session")
def client(molmo: MolmoNode) -> Iterator[GraspClient]:
    from molmo_ros.ros.client import GraspClient

    with GraspClient() as client:
        client.wait_ready(120.0)
        yield client


@pytest.fixture
def setting(molmo: MolmoNode) -> Iterator[Callable[..., None]]:
    """Change parameters of the node for one test."""
    from rclpy.parameter import Parameter

    before: dict[str, Any] = {}

    def change(**values: Any) -> None:
        for name in values:
            before.setdefault(name, molmo.get_parameter(name).value)
        results = molmo.set_parameters([Parameter(name, value=value) for name, value in values.items()])
        assert all(result.successful for result in results), [result.reason for result in results]

    yield change
    change(**before)
