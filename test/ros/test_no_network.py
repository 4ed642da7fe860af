"""The node answers a query in a process that the kernel ends if it opens a TCP socket.

Not so the simulated camera: Open3D brings urllib3, which binds one to see whether there is IPv6.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_prefix
from ros_helpers import SEED, found_in_time

from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.processes import Processes

FILTER = Path(__file__).parents[1] / "no_network.py"
SPACE = "/offline"

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the filter knows x86_64 and aarch64"
)


def start(home: Path, **parameters: object) -> subprocess.Popen[bytes]:
    """The node with datagrams, which DDS needs, and without TCP; in an empty home."""
    script = f"{get_package_prefix('molmo_ros')}/lib/molmo_ros/molmo_node"
    command = [sys.executable, str(FILTER), "--dds", script, "--ros-args", "-r", f"__ns:={SPACE}"]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    env = {
        **os.environ,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "ROS_LOG_DIR": str(home / "log"),
    }
    env = {name: value for name, value in env.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    return subprocess.Popen(command, env=env)


def test_a_query_from_end_to_end_needs_nothing_but_dds(tmp_path: Path) -> None:
    names = ["-r", f"__ns:={SPACE}"]
    node = start(tmp_path, max_frame_age_s=60.0, frame_wait_s=30.0)
    try:
        with Processes() as processes, GraspClient(f"{SPACE}/molmo") as client:
            processes.start_node("molmo_ros.ros.sim_camera_node", {"seed": SEED, "rate": 5.0}, names)
            client.wait_ready(120.0)
            assert found_in_time(client)
            client.spin(4.0)  # ONNX Runtime would connect about 3 s after its first session
        assert node.poll() is None  # SIGSYS would have ended it
    finally:
        node.terminate()
        node.wait(30.0)
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert [name for name in files if not name.startswith(("cache/molmo_ros/", "log/"))] == []
