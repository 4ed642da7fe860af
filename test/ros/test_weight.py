"""How heavy the node is."""

from __future__ import annotations

import time
from pathlib import Path

from ros_helpers import GOOD, SEED

from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.processes import Processes

MOST_MB = 450


def test_memory_and_libraries_of_a_node_that_has_answered() -> None:
    names = ["-r", "__ns:=/weighed"]  # the camera of the other tests must not hear of this one
    with Processes() as processes:
        processes.start_node("molmo_ros.ros.sim_camera_node", {"seed": SEED, "rate": 5.0}, names)
        start = time.perf_counter()
        settings = {"runtime": "onnx", "max_frame_age_s": 60.0, "frame_wait_s": 30.0}
        node = processes.start_node("molmo_ros.ros.node", settings, names)
        with GraspClient("/weighed/molmo") as client:
            client.wait_ready(120.0)
            seconds = time.perf_counter() - start
            response = client.find(GOOD, timeout_s=60.0)
        assert response.success, response.message
        status = Path(f"/proc/{node.pid}/status").read_text()
        libraries = Path(f"/proc/{node.pid}/maps").read_text()
    peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(f"process to ready {seconds:.2f} s, peak {peak:.0f} MB")
    assert "onnxruntime" in libraries
    assert not [name for name in ("libtorch", "open3d", "openvino", "tensorrt") if name in libraries]
    assert peak <= MOST_MB
