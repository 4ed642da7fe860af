"""The simulated camera as a node: what it publishes, and another scene on request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_helpers import SEED, Spinning

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.sim_camera_node import SimCameraNode
from molmo_ros.sim import SimCamera

CONFIG = NodeConfig(frame_wait_s=60.0, max_frame_age_s=60.0)


@pytest.fixture
def sim(context: None) -> Iterator[SimCameraNode]:
    overrides = [Parameter("seed", value=SEED), Parameter("noise", value=0.0), Parameter("rate", value=20.0)]
    node = SimCameraNode(parameter_overrides=overrides, namespace="/sim_test")
    spinning = Spinning(node, SingleThreadedExecutor())
    yield node
    spinning.stop()
    node.destroy_node()


@pytest.fixture
def eye(context: None) -> Iterator[CameraInput]:
    node = Node("eye", namespace="/sim_test")
    yield CameraInput(node, "", CONFIG)
    node.destroy_node()


def newest(eye: CameraInput) -> RgbdFrame:
    return eye.newest_frame(CONFIG, lambda: False)


def until(eye: CameraInput, accept: Any) -> RgbdFrame:
    give_up = time.monotonic() + 60.0
    while time.monotonic() < give_up:
        frame = newest(eye)
        if accept(frame):
            return frame
        time.sleep(0.05)
    raise AssertionError("no such frame came")


def test_frames_are_those_of_the_library(sim: SimCameraNode, eye: CameraInput) -> None:
    frame = newest(eye)
    truth = SimCamera(SEED)
    np.testing.assert_allclose(frame.K, truth.K)
    assert frame.frame_id == "camera_color_optical_frame"
    error = np.abs(frame.depth - truth.truth.depth)
    assert np.nanmax(error) <= 0.0006  # 16UC1 holds whole millimetres
    assert abs(time.time() - frame.stamp_ns / 1e9) < 60.0


def test_stamps_go_on(sim: SimCameraNode, eye: CameraInput) -> None:
    first = newest(eye)
    assert until(eye, lambda frame: frame.stamp_ns > first.stamp_ns).frame_id == first.frame_id


def test_another_seed_shows_another_scene(sim: SimCameraNode, eye: CameraInput) -> None:
    before = newest(eye)
    assert sim.set_parameters([Parameter("seed", value=SEED + 1)])[0].successful
    after = until(eye, lambda frame: np.mean(frame.rgb != before.rgb) > 0.2)
    np.testing.assert_allclose(after.K, before.K)


def test_impossible_noise_is_refused(sim: SimCameraNode) -> None:
    assert not sim.set_parameters([Parameter("noise", value=99.0)])[0].successful
