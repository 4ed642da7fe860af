"""Nothing is sent anywhere: real queries in processes that the kernel ends if they open a socket."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WITHOUT_NETWORK = [sys.executable, str(HERE / "no_network.py")]
ASK = """
import sys, time
import numpy as np
from molmo_ros import Grounder
grounder = Grounder.load(runtime="{runtime}")
try:
    grounder.point(np.zeros((64, 64, 3), np.uint8), "the mug")
except Exception as error:
    print(type(error).__name__)
time.sleep(6)  # ONNX Runtime would connect about 3 s after its first session
print("alive", "{runtime}" == "openvino" or "onnxruntime" in sys.modules)
"""

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the filter knows x86_64 and aarch64"
)


def run(code: str, home: Path, **told: str) -> subprocess.CompletedProcess[str]:
    """In an environment of its own: OpenVINO is silent where a variable speaks of continuous integration."""
    kept = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSAFEPATH", "OMP_NUM_THREADS")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    env |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **told}
    command = [*WITHOUT_NETWORK, sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def left_behind(home: Path) -> list[str]:
    """What a process wrote into the user's home, without this package's own cache."""
    files = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    return [name for name in files if not name.startswith("cache/molmo_ros/")]


def test_the_filter_ends_who_opens_a_socket(tmp_path: Path) -> None:
    done = run("import socket; socket.socket(socket.AF_INET6)", tmp_path)
    assert done.returncode == -signal.SIGSYS


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_query_opens_no_socket_and_leaves_no_id(runtime: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino" if runtime == "openvino" else "onnxruntime")
    done = run(ASK.format(runtime=runtime), tmp_path)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    assert done.stdout.split()[-2:] == ["alive", "True"]
    assert left_behind(tmp_path) == []


def test_who_wants_telemetry_can_have_it(tmp_path: Path) -> None:
    code = "import os, molmo_ros; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert run(code, tmp_path, ORT_DISABLE_TELEMETRY="0").stdout.strip() == "0"
