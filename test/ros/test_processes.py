"""Camera, node and client as three processes, as on a robot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image as PilImage
from ros_helpers import ABSENT, GOOD, SEED

from molmo_ros.errors import NotReadyError
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.demo import run_demo
from molmo_ros.ros.processes import Processes
from molmo_ros.sim import SimCamera


def test_demo_writes_a_picture_of_a_real_answer(tmp_path: Path) -> None:
    out, said = tmp_path / "demo.png", []
    result = run_demo(GOOD, SEED, out, say=said.append)
    assert result["query"] == GOOD
    assert result["answer"]
    assert len(result["targets"]) >= 1
    assert result["targets"][0].grasp is not None
    assert result["targets"][0].segment.mask.sum() > 500
    assert result["annotated"].shape == (480, 640, 3)
    truth = SimCamera(SEED).truth
    point = result["targets"][0].point
    assert truth.objects[truth.ids[round(point.y), round(point.x)] - 1].name in GOOD
    assert {"frame", "vision", "decode", "total", "service_round_trip"} <= set(result["stages_ms"])
    assert PilImage.open(out).width > 1000
    assert any("ROS_DOMAIN_ID" in line for line in said)


def test_demo_of_an_absent_object_is_no_failure(tmp_path: Path) -> None:
    result = run_demo(ABSENT, SEED, tmp_path / "demo.png", say=lambda line: None)
    assert (result["answer"], result["targets"]) == ("There are none.", ())
    assert PilImage.open(result["picture"]).width > 1000


def test_demo_tells_why_it_fails_and_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="/nowhere"):
        run_demo(GOOD, SEED, tmp_path / "demo.png", checkpoint="/nowhere", say=lambda line: None)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert not [command for command in commands if b"molmo_ros.ros" in command]


def interrupt_twice(process: subprocess.Popen[bytes]) -> int:
    """As Ctrl-C does in a terminal: the process hears of it from there, and from launch."""
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    return process.wait(60.0)


def test_interrupted_node_ends_cleanly() -> None:
    with Processes() as processes:
        node = processes.start_node("molmo_ros.ros.node", ros_args=["-r", "__node:=interrupted"])
        with GraspClient("/interrupted") as client:
            client.wait_ready(120.0)
        assert interrupt_twice(node) == 0


def test_interrupted_camera_ends_cleanly() -> None:
    with Processes() as processes, GraspClient() as client:
        names = ["-r", "__ns:=/interrupted"]
        camera = processes.start_node("molmo_ros.ros.sim_camera_node", {"width": 320, "height": 240}, names)
        give_up = time.monotonic() + 60.0
        while client.node.count_publishers("/interrupted/camera_info") == 0:
            assert time.monotonic() < give_up and camera.poll() is None
            client.spin(0.05)
        assert interrupt_twice(camera) == 0


INTERRUPTED_WHILE_MADE = """
import os, signal, sys, time
import rclpy
from rclpy.node import Node
from molmo_ros.ros.entry import run_node

def make():
    node = Node("interrupted_while_made")
    os.kill(os.getpid(), signal.SIGINT)
    while rclpy.ok():
        time.sleep(0.001)
    node.create_timer(1.0, print)
    return node

def broken():
    raise RuntimeError("broken")

def interrupted_spin(node):
    os.kill(os.getpid(), signal.SIGINT)
    while rclpy.ok():
        time.sleep(0.001)
    rclpy.spin(node)

what = sys.argv[1]
spin = interrupted_spin if what == "spin" else rclpy.spin
made = {"make": make, "broken": broken, "spin": lambda: Node("interrupted_spin")}[what]
sys.exit(run_node("test", made, spin, []))
"""


def test_interrupted_constructor_ends_cleanly_and_a_broken_one_does_not() -> None:
    command = [sys.executable, "-c", INTERRUPTED_WHILE_MADE]
    for what in ("make", "spin"):
        done = subprocess.run([*command, what], capture_output=True, text=True, timeout=180, check=False)
        assert (done.returncode, done.stderr) == (0, ""), what
    done = subprocess.run([*command, "broken"], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 1 and "RuntimeError: broken" in done.stderr


def test_wrong_parameter_is_one_line_and_status_2() -> None:
    command = [sys.executable, "-m", "molmo_ros.ros.node", "--ros-args", "-p", "timeout_s:=1e9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "0.05 to 600 s" in done.stderr


def test_namespace_and_remapping_reach_the_node(tmp_path: Path) -> None:
    """Two robots on one network: each node has its own namespace and camera topics."""
    with Processes() as processes:
        names = ["-r", "__ns:=/left"]
        processes.start_node("molmo_ros.ros.sim_camera_node", {"seed": SEED, "rate": 5.0}, names)
        processes.start_node("molmo_ros.ros.node", {"max_frame_age_s": 60.0, "frame_wait_s": 30.0}, names)
        with GraspClient("/left/molmo") as client:
            client.wait_ready(120.0)
            response = client.find(GOOD, timeout_s=60.0)
    assert response.success, response.message
    assert json.dumps(response.answer)
