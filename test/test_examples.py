"""Every example runs as a user would run it. Those that need ROS 2 are in test/ros/test_examples.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as PilImage
from toy_scene import make_frame

import molmo_ros
from molmo_ros import io

ROOT = Path(molmo_ros.__file__).parent.parent  # the package that the other tests import
EXAMPLES = Path(__file__).parent.parent / "examples"
WITH_ROS = {"ask_a_running_node.py", "moveit_pick.py", "agent.py"}
LONGER = {"moveit_pick.py": 96, "mask_by_sam2.py": 33, "agent.py": 31}


def run(name: str, *args: str, cwd: Path) -> str:
    """Run an example in a process of its own; return what it prints."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(EXAMPLES / name), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_examples_are_tested_and_short() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    tested = {"point_in_image.py", "grasp_in_simulation.py", "mask_by_sam2.py"}
    assert names == tested | WITH_ROS
    for name in names:
        assert len((EXAMPLES / name).read_text().splitlines()) <= LONGER.get(name, 20)


@pytest.mark.parametrize("name", ["point_in_image.py", "ask_a_running_node.py", "moveit_pick.py"])
def test_without_arguments_an_example_says_how_to_call_it(name: str) -> None:
    if name in WITH_ROS:
        pytest.importorskip("rclpy", reason="ROS 2 (rclpy) is not installed here")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=120, env=env
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"python examples/{name}" in done.stderr


def test_point_in_image(tmp_path: Path) -> None:
    io.write_color(tmp_path / "table.png", make_frame()[0].rgb)
    assert run("point_in_image.py", "table.png", "the red can", cwd=tmp_path).strip().endswith("found")


@pytest.mark.parametrize("picture", ["mine.png", None])
def test_grasp_in_simulation(tmp_path: Path, picture: str | None) -> None:
    run("grasp_in_simulation.py", *([picture] if picture else []), cwd=tmp_path)
    assert PilImage.open(tmp_path / (picture or "grasp.png")).width > 1280


def test_mask_by_sam2(tmp_path: Path) -> None:
    """With random weights, since the real ones are not available here; the code path is the same."""
    transformers = pytest.importorskip("transformers", reason="SAM 2 runs in transformers")
    pytest.importorskip("open3d", reason="the simulated camera casts rays with open3d")
    small = {
        "model_type": "sam2_hiera_det_model", "blocks_per_stage": [1, 1, 2, 1], "hidden_size": 16,
        "embed_dim_per_stage": [16, 32, 64, 128], "global_attention_blocks": [3],
    }  # fmt: skip
    vision = {"backbone_config": small, "backbone_channel_list": [128, 64, 32, 16]}
    model = transformers.Sam2Model(transformers.Sam2Config(vision_config=vision))
    model.save_pretrained(tmp_path / "sam2")
    assert run("mask_by_sam2.py", str(tmp_path / "sam2"), cwd=tmp_path).strip()
