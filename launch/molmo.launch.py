"""Bring up the node molmo on a camera.

ros2 launch molmo_ros molmo.launch.py camera:=realsense target_frame:=base_link checkpoint:=<folder or hub id>
"""

from __future__ import annotations

from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

SHARE = Path(get_package_share_directory("molmo_ros"))
CAMERAS = sorted(path.stem for path in (SHARE / "config" / "cameras").glob("*.yaml"))
TOPICS = ("image", "depth", "camera_info")

ARGUMENTS = {
    "camera": (f"preset of the topics: {', '.join(CAMERAS)}", "realsense"),
    "image": ("colour topic, instead of that of the preset", ""),
    "depth": ("depth topic, instead of that of the preset", ""),
    "camera_info": ("camera_info topic, instead of that of the preset", ""),
    "depth_camera_info": ("that of depth that is not aligned to colour; empty: the one beside depth", ""),
    "checkpoint": ("model: a folder, a cached hub id or 'tiny'; empty: as in params_file", ""),
    "runtime": ("onnx, openvino, tensorrt, tensorrt_rtx, eager, remote, auto; empty: as in params_file", ""),
    "precision": ("auto, fp32, fp16, bf16, int8, int8_dynamic or int4; empty: as in params_file", ""),
    "allow_download": ("fetch a hub id that is not in the cache; empty: as in params_file", ""),
    "remote_url": ("runtime remote: address of the server; empty: as in params_file", ""),
    "remote_model": ("runtime remote: name of the model there; empty: as in params_file", ""),
    "gripper": ("gripper preset or YAML file; empty: as in params_file", ""),
    "target_frame": ("frame of the targets, as base_link; empty: as in params_file", ""),
    "params_file": ("further parameters of the node", str(SHARE / "config" / "molmo.yaml")),
    "namespace": ("namespace of the node", ""),
    "autostart": ("configure and activate at start; false: wait for a manager", "true"),
    "use_sim_time": ("take the time from /clock", "false"),
    "rviz": ("start rviz2 with config/molmo.rviz", "false"),
}


def generate_launch_description() -> LaunchDescription:
    """Arguments, then the nodes, which need the values of the arguments."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (text, default) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=nodes)])


def nodes(context: LaunchContext) -> list[Node]:
    """The node molmo on the topics of the camera, and rviz2 if wanted."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    molmo = Node(
        package="molmo_ros",
        executable="molmo_node",
        name="molmo",
        namespace=values["namespace"],
        parameters=[values["params_file"], parameters(values)],
        remappings=remappings(values),
        ros_arguments=["--enclave", "/molmo"],  # of config/policy.xml; without SROS 2 it means nothing
        output="screen",
        emulate_tty=True,
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(SHARE / "config" / "molmo.rviz")],
        condition=IfCondition(values["rviz"]),
    )
    return [molmo, rviz]


def parameters(values: dict[str, str]) -> dict[str, ParameterValue]:
    """What the arguments say; an empty one leaves the parameter file its say."""
    texts = ("checkpoint", "runtime", "precision", "remote_url", "remote_model", "gripper", "target_frame")
    flags = ("allow_download", "autostart", "use_sim_time")
    return {
        **{name: ParameterValue(values[name], value_type=str) for name in texts if values[name]},
        **{name: ParameterValue(flag(name, values[name]), value_type=bool) for name in flags if values[name]},
    }


def flag(name: str, text: str) -> bool:
    """A launch argument that is true or false."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{name} is {text!r}; give true or false.")
    return text.lower() == "true"


def remappings(values: dict[str, str]) -> list[tuple[str, str]]:
    """From the node's topics to those of the preset or of the arguments, compressed ones too."""
    if values["camera"] not in CAMERAS:
        raise ValueError(f"camera is {values['camera']!r}; choose one of {', '.join(CAMERAS)}.")
    preset = yaml.safe_load((SHARE / "config" / "cameras" / f"{values['camera']}.yaml").read_text())
    topics = {topic: values[topic] or preset[topic] for topic in TOPICS}
    pairs = list(topics.items())
    if values["depth_camera_info"]:
        pairs.append(("depth_camera_info", values["depth_camera_info"]))
    suffixes = {"image": "compressed", "depth": "compressedDepth"}
    compressed = [(f"{topic}/{end}", f"{topics[topic]}/{end}") for topic, end in suffixes.items()]
    return [pair for pair in pairs + compressed if pair[0] != pair[1]]
