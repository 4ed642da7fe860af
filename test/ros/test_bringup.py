"""What the launch files decide, and the launch files themselves where ROS's launch is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from molmo_ros.errors import ParameterError
from molmo_ros.ros import bringup
from molmo_ros.ros.config import SimCameraConfig
from molmo_ros.sim import SimCamera

ROOT = Path(__file__).parents[2]
NAMES = ("image", "depth", "camera_info", "depth_camera_info", "namespace", "target_frame")


def values(camera: str, **more: str) -> dict[str, str]:
    return {**dict.fromkeys(NAMES, ""), "camera": camera, **more}


@pytest.mark.parametrize("camera", bringup.camera_names(ROOT))
def test_rviz_shows_the_topics_of_the_node_and_its_camera(camera: str) -> None:
    """Every topic in the RViz configuration is remapped to one that exists with this camera and namespace."""
    preset = bringup.camera_preset(ROOT, camera)
    given = values(camera, namespace="arm1")
    shown = yaml.safe_load((ROOT / "config" / "molmo.rviz").read_text())["Visualization Manager"]
    topics = {d["Topic"]["Value"] for d in shown["Displays"] if "Topic" in d}
    remapped = dict(bringup.rviz_remappings(ROOT, given))
    assert topics == set(remapped) | ({"/image"} if preset["image"] == "/image" else set())
    assert remapped["/molmo/markers"] == "/arm1/molmo/markers"
    assert remapped["/image"] == (preset["image"] if preset["image"].startswith("/") else "/arm1/image")
    assert bringup.rviz_frame(ROOT, given) == preset["frame"]
    assert bringup.rviz_frame(ROOT, values(camera, target_frame="base_link")) == "base_link"


def test_without_a_namespace_rviz_needs_no_remapping_for_the_demo() -> None:
    assert bringup.rviz_remappings(ROOT, values("sim")) == []
    assert dict(bringup.rviz_remappings(ROOT, values("sim", image="/front/rgb"))) == {"/image": "/front/rgb"}


def test_a_driver_is_known_by_its_colour_topic() -> None:
    assert "realsense2_camera" in bringup.driver_of(ROOT, "/camera/camera/color/image_raw")
    assert "demo.launch.py" in bringup.driver_of(ROOT, "/image")
    assert bringup.driver_of(ROOT, "/front/image") == ""


def test_an_unknown_camera_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ParameterError, match="realsense"):
        bringup.remappings(ROOT, values("kinect"))


def test_parameter_file_is_expanded_and_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("")
    assert bringup.parameter_file("~/mine.yaml") == str(tmp_path / "mine.yaml")
    with pytest.raises(ParameterError, match="no such file"):
        bringup.parameter_file("~/other.yaml")


def test_rviz_is_asked_for_before_anything_starts() -> None:
    def missing(name: str) -> str:
        raise LookupError(name)

    with pytest.raises(ParameterError, match="ros-\\$ROS_DISTRO-rviz2"):
        bringup.need_rviz(missing)
    bringup.need_rviz(lambda name: "/opt/ros/jazzy")


@pytest.mark.parametrize(
    ("environment", "given"),
    [
        ({}, True),
        ({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, True),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, False),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}, False),
        ({"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}, False),
    ],
)
def test_fast_dds_gets_its_profile_unless_it_has_one(environment: dict[str, str], given: bool) -> None:
    profile = bringup.fastdds_profile(ROOT, environment)
    assert bool(profile) is given
    assert all(Path(path).is_file() for path in profile.values())


def test_the_documented_query_is_about_something_in_the_default_scene() -> None:
    names = [thing.name for thing in SimCamera(SimCameraConfig.seed).scene.objects]
    for text in ((ROOT / "README.md").read_text(), (ROOT / "launch" / "demo.launch.py").read_text()):
        assert "{query: the red mug" in text
    assert "red mug" in names


def load(name: str) -> Any:
    pytest.importorskip("launch_ros", reason="ROS's launch is not installed here")
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), ROOT / "launch" / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(**arguments: str) -> list[Any]:
    """The nodes that molmo.launch.py would start."""
    module = load("molmo.launch.py")
    from launch import LaunchContext

    context = LaunchContext()
    defaults = {name: default for name, (_, default) in module.ARGUMENTS.items()}
    context.launch_configurations.update({**defaults, **arguments})
    return list(module.nodes(context))


def test_missing_rviz_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(started(camera="sim")) == 1
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/nowhere")
    with pytest.raises(ParameterError, match="rviz2"):
        started(camera="sim", rviz="true")


def test_the_web_view_is_started_if_wanted_and_not_otherwise() -> None:
    assert [node.node_executable for node in started(camera="sim")] == ["molmo_node"]
    assert [n.node_executable for n in started(camera="sim", web="true")] == ["molmo_node", "web_node"]
    with pytest.raises(ParameterError, match="web_port"):
        started(camera="sim", web="true", web_port="no")


def test_every_preset_has_a_launchable_node() -> None:
    for camera in bringup.camera_names(ROOT):
        assert started(camera=camera)


def test_demo_is_the_scene_of_the_documented_query() -> None:
    assert load("demo.launch.py").ARGUMENTS["seed"][1] == str(SimCameraConfig.seed)
