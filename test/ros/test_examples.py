"""The example that asks a node, in a process of its own, over real DDS."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from ros_helpers import GOOD, Camera

from molmo_ros.ros.client import GraspClient

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_ask_a_running_node(camera: Camera, client: GraspClient) -> None:
    camera.show()
    response = client.find(GOOD)
    assert response.success, response.message
    camera.show()
    command = [sys.executable, str(EXAMPLES / "ask_a_running_node.py"), GOOD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first == (response.message or response.answer)
    assert len(others) == 2 * len(response.targets)
    for line, target in zip(others[::2], response.targets, strict=True):
        assert line.startswith(f"{target.point.label}: (") and line.endswith(target.header.frame_id)


def test_agent(camera: Camera, client: GraspClient) -> None:
    pytest.importorskip("mcp", reason="the extra mcp is not installed here")
    command = [sys.executable, str(EXAMPLES / "agent.py"), GOOD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as agent:
        while agent.poll() is None:
            camera.show()
            time.sleep(0.1)
        out, err = agent.communicate(timeout=10)
    assert agent.returncode == 0, err
    assert out.count("-> {") == 5 and "'code': 'BAD_QUERY'" in out and "'stage': 'ended'" in out
