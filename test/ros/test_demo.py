"""The demo as make demo runs it: two nodes and the asking program, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image as PilImage

from molmo_ros.ros.demo import surroundings


def test_demo_through_ros(tmp_path: Path) -> None:
    out = tmp_path / "demo.png"
    command = [sys.executable, "-m", "molmo_ros.cli", "demo", "--ros", "--json", "--out", str(out)]
    env = {
        key: value for key, value in os.environ.items() if key != "ROS_DOMAIN_ID"
    }  # the demo picks its own
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["picture"] == str(out) and PilImage.open(out).width > 1280
    assert {"preprocess", "vision", "decode", "total"} <= result["stages_ms"].keys()
    assert len(result["targets"]) == len(result["points"])
    for target in result["targets"]:
        assert target["status"] != "OK" or (target["grasp"] and 0 < target["width"] < 0.08)


def test_images_of_the_demo_have_room_in_shared_memory() -> None:
    assert Path(surroundings({})["FASTRTPS_DEFAULT_PROFILES_FILE"]).name == "fastdds.xml"
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" not in surroundings({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"})
