"""What it costs to have the built-in model ready, in a separate process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from molmo_ros.sim import SimCamera

MOST_MB = 450

READY = """
import sys
import time
start = time.perf_counter()
import numpy as np
from molmo_ros.pipeline import Grounder
grounder = Grounder.load("tiny", sys.argv[1])
ready = time.perf_counter() - start
assert grounder.point(np.load(sys.argv[2]), "the white bowl").points
memory = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
heavy = {m.split(".")[0] for m in sys.modules} & {"torch", "transformers", "open3d", "openvino"}
print(ready, int(memory.split()[1]) / 1024, *heavy)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_and_imports_of_the_built_in_model(tmp_path: Path) -> None:
    root, image = Path(__file__).parent.parent, tmp_path / "scene.npy"
    np.save(image, SimCamera(0).frame().rgb)  # made here: the simulator is not weighed
    command = [sys.executable, "-c", READY, "onnx", str(image)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    seconds, megabytes, *heavy = done.stdout.split()
    print(f"import to ready {float(seconds):.2f} s, peak {float(megabytes):.0f} MB")
    assert heavy == []
    assert float(megabytes) <= MOST_MB
