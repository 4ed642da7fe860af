"""How heavy it is to have the built-in model ready, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MOST_MB = 450

READY = """
import sys
import time
start = time.perf_counter()
import numpy as np
from molmo_ros.pipeline import Grounder
grounder = Grounder.load("tiny", sys.argv[1])
ready = time.perf_counter() - start
grounder.point(np.zeros((480, 640, 3), np.uint8), "the red mug")
memory = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
heavy = {m.split(".")[0] for m in sys.modules} & {"torch", "transformers", "open3d", "openvino"}
print(ready, int(memory.split()[1]) / 1024, *heavy)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_and_imports_of_the_built_in_model() -> None:
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", READY, "onnx"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    seconds, megabytes, *heavy = done.stdout.split()
    print(f"import to ready {float(seconds):.2f} s, peak {float(megabytes):.0f} MB")
    assert heavy == []
    assert float(megabytes) <= MOST_MB
