"""Camera and node answer a query in processes that the kernel ends if they open a connection."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_prefix
from ros_helpers import GOOD, SEED

from molmo_ros.ros.client import GraspClient

FILTER = Path(__file__).parents[1] / "no_network.py"
SPACE = "/offline"

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the filter knows x86_64 and aarch64"
)


def start(node: str, home: Path, **parameters: object) -> subprocess.Popen[bytes]:
    """A node with datagrams, which DDS needs, and without TCP; in an empty home."""
    script = f"{get_package_prefix('molmo_ros')}/lib/molmo_ros/{node}"
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
    camera = start("sim_camera_node", tmp_path, seed=SEED, rate=5.0)
    node = start("molmo_node", tmp_path, max_frame_age_s=20.0, frame_wait_s=30.0)
    try:
        with GraspClient(f"{SPACE}/molmo") as client:
            client.wait_ready(120.0)
            response = client.find(GOOD, timeout_s=60.0)
            client.spin(4.0)  # ONNX Runtime would connect about 3 s after its first session
        assert response.success, response.message
        assert (camera.poll(), node.poll()) == (None, None)  # SIGSYS would have ended them
    finally:
        for process in (camera, node):
            process.terminate()
            process.wait(30.0)
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert [name for name in files if not name.startswith(("cache/molmo_ros/", "log/"))] == []
