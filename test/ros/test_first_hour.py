"""What a new user trips over: bursts of calls, Ctrl-C at a bad moment, silence, texts that do not help."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rcl_interfaces.msg import Log
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_helpers import ABSENT, GOOD, Camera, heard_publisher
from sensor_msgs.msg import Image
from std_msgs.msg import String

from molmo_ros.errors import CheckpointError, FrameError, NotReadyError
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.model_host import ModelHost
from molmo_ros.ros.node import MolmoNode

SCRIPTS = Path(__file__).parents[2] / "scripts" / "bin"
PROCESSES, CALLS = 10, 10  # the replies to all go by the reader of each, whose history must hold them
BURST = f"""
import sys, time, rclpy
from rclpy.qos import QoSProfile
from molmo_ros.srv import Ground

rclpy.init()
node = rclpy.create_node("burst_" + sys.argv[1])
client = node.create_client(Ground, "/molmo/ground", qos_profile=QoSProfile(depth={PROCESSES * CALLS}))
assert client.wait_for_service(60.0)
heard = None
while heard is None or not heard.done():  # DDS drops answers to a client that the node has not discovered yet
    heard = client.call_async(Ground.Request(query=""))
    rclpy.spin_until_future_complete(node, heard, timeout_sec=2.0)
print("there", flush=True)
sys.stdin.readline()
futures = [client.call_async(Ground.Request(query={GOOD!r})) for _ in range({CALLS})]
give_up = time.monotonic() + 120.0
while not all(f.done() for f in futures) and time.monotonic() < give_up:
    rclpy.spin_once(node, timeout_sec=0.1)
print(sum(f.done() for f in futures))
"""


def test_no_call_of_a_burst_is_lost(camera: Camera, client: GraspClient) -> None:
    """Ten processes call ten times each, all at once; each call is answered, be it with "busy"."""
    camera.show()
    command = [sys.executable, "-c", BURST]
    callers = [
        subprocess.Popen([*command, str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(PROCESSES)
    ]
    try:
        for caller in callers:
            assert caller.stdout is not None and caller.stdout.readline() == "there\n"
        for caller in callers:
            assert caller.stdin is not None
            caller.stdin.write("go\n")
            caller.stdin.flush()
        answered = [int(caller.communicate(timeout=240.0)[0]) for caller in callers]
    finally:
        for caller in callers:
            caller.kill()
    assert answered == [CALLS] * PROCESSES


@pytest.mark.parametrize("wait_s", [0.0, 0.1, 0.15, 0.2, 0.3])
def test_ctrl_c_while_the_model_loads_ends_cleanly(wait_s: float) -> None:
    command = [sys.executable, str(SCRIPTS / "molmo_node"), "--ros-args", "-r", "__node:=interrupted"]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert node.stdout is not None
    said = ""
    while "runtime auto is" not in said:
        said = node.stdout.readline()
        assert said, "ended before it loaded"
    time.sleep(wait_s)
    for _ in range(2):  # from the terminal, and from launch
        node.send_signal(signal.SIGINT)
        time.sleep(0.02)
    rest, _ = node.communicate(timeout=60.0)
    assert node.returncode == 0, rest
    assert "terminate called" not in rest and "Traceback" not in rest


@pytest.mark.parametrize("module", ["cv2", "yaml"])
def test_a_missing_package_at_start_is_one_line_with_the_command(module: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from molmo_ros.ros.entry import run_module; sys.exit(run_module('molmo_ros.ros.node'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "pip install" in done.stderr


@pytest.mark.parametrize("module", ["tokenizers", "safetensors", "onnx"])
def test_a_missing_package_at_load_is_named(module: str) -> None:
    """In a separate process: here the model is loaded already, with everything it imports."""
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from molmo_ros.errors import RuntimeUnavailableError\n"
        "from molmo_ros.ros.config import NodeConfig\n"
        "from molmo_ros.ros.model_host import ModelHost\n"
        "host = ModelHost()\n"
        "try:\n"
        "    host.load(NodeConfig())\n"
        "except RuntimeUnavailableError as error:\n"
        "    print(host.error_code, error)\n"
        "    print(host.describe())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    raised, described = done.stdout.splitlines()
    assert raised.startswith("NO_RUNTIME ") and f"pip install {module}" in raised
    assert f"pip install {module}" in described


def test_an_unready_node_says_what_to_run() -> None:
    host = ModelHost("/arm1/molmo")
    assert "ros2 lifecycle set /arm1/molmo configure" in host.describe()
    host.starting = True
    assert "starting" in host.describe() and "lifecycle" not in host.describe()
    host.starting = False
    host.load(NodeConfig())
    assert "ros2 lifecycle set /arm1/molmo activate" in host.describe()
    host.unload()


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from molmo_ros.checkpoint.checkpoint import load_checkpoint
    from molmo_ros.grasp.gripper import PRESETS, Gripper

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text((PRESETS / "franka_hand.yaml").read_text())
    assert Gripper.load("~/mine.yaml") == Gripper.load("franka_hand")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=str(tmp_path)):  # the folder is told, also of a relative path
        load_checkpoint(".")


def test_a_server_that_is_away_is_not_told_as_loaded() -> None:
    host = ModelHost()
    host.load(NodeConfig(runtime="remote", remote_url="http://localhost:9/v1", remote_retries=0))
    assert "localhost:9" in host.away


@pytest.fixture
def rosout(client: GraspClient) -> Iterator[list[str]]:
    """What nodes log meanwhile."""
    said: list[str] = []
    subscription = client.node.create_subscription(Log, "/rosout", lambda m: said.append(m.msg), 100)
    client.spin(0.5)
    yield said
    client.node.destroy_subscription(subscription)


def wait_for(client: GraspClient, said: list[str], words: str) -> str:
    give_up = time.monotonic() + 60.0
    while time.monotonic() < give_up:
        if found := [text for text in said if words in text]:
            return found[0]
        client.spin(0.1)
    raise AssertionError(f"{words!r} is not in {said}")


def test_an_answer_leaves_a_line_in_the_log(camera: Camera, client: GraspClient, rosout: list[str]) -> None:
    publisher = heard_publisher(client, String, "/molmo/query")
    for query, words in ((GOOD, "1 target"), (ABSENT, "not there")):
        camera.show()
        publisher.publish(String(data=query))
        line = wait_for(client, rosout, f'"{query}": {words}')
        assert line.endswith(" ms")
    client.node.destroy_publisher(publisher)


def test_ready_names_services_and_camera(molmo: MolmoNode, camera: Camera) -> None:
    camera.show()
    line = molmo.ready_line()
    assert all(name in line for name in ("/molmo/ground", "/molmo/ask", "/molmo/query", "/camera_info"))
    assert "frames come" in line or "no frames" in line


def test_ready_says_if_up_is_not_known(molmo: MolmoNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a fridge seen from the front the back would be the table; a robot's base frame tells them apart."""
    assert molmo.config.target_frame == "" and "name it in upright_frames" in molmo.ready_line()
    monkeypatch.setattr(molmo, "config", replace(molmo.config, target_frame="base_link"))
    assert "ready: ask on" in molmo.ready_line() and "up is not known" not in molmo.ready_line()
    arm = replace(molmo.config, target_frame="panda_link0")
    monkeypatch.setattr(molmo, "config", arm)
    assert "up is not known" in molmo.ready_line()
    monkeypatch.setattr(molmo, "config", replace(arm, upright_frames=("panda_link0",)))
    assert "up is not known" not in molmo.ready_line()


def test_a_camera_without_a_name_is_told_in_words(molmo: MolmoNode, client: GraspClient) -> None:
    message = client.find(GOOD, camera="nose").message
    assert "''" not in message and "leave it empty" in message


def test_a_silent_topic_names_the_driver_and_what_is_published(context: None) -> None:
    node = Node("silent_test", cli_args=["--ros-args", "-r", "image:=/camera/camera/color/image_raw"])
    other = node.create_publisher(Image, "/elsewhere/image", 10)
    camera = CameraInput(node, "", NodeConfig(frame_wait_s=0.0))
    give_up, text = time.monotonic() + 60.0, ""
    while "/elsewhere/image" not in text and time.monotonic() < give_up:  # once the graph tells of it
        with pytest.raises(FrameError) as raised:
            camera.newest_frame(NodeConfig(frame_wait_s=0.0), lambda: False)
        text = str(raised.value)
    assert "ros2 launch realsense2_camera" in text and "/elsewhere/image" in text
    node.destroy_publisher(other)
    node.destroy_node()


def test_start_parameters_may_be_set_until_the_node_is_configured(context: None, molmo: MolmoNode) -> None:
    node = MolmoNode(namespace="/unconfigured")
    try:
        wanted = Parameter("checkpoint", value="/nowhere")
        assert node.set_parameters([wanted])[0].successful
        assert node.config.checkpoint == "/nowhere"
    finally:
        node.destroy_node()
    refused = molmo.set_parameters([wanted])[0]
    assert not refused.successful and "ros2 lifecycle set /molmo" in refused.reason


def test_a_clean_end_is_no_failure_of_the_load() -> None:
    host = ModelHost()
    host.stop_loading()
    with pytest.raises(Exception, match="shutting down"):
        host.load(NodeConfig())
    with pytest.raises(NotReadyError):
        host.grounder()
