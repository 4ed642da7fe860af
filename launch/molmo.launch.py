"""Bring up the node molmo on a camera.

ros2 launch molmo_ros molmo.launch.py camera:=realsense target_frame:=base_link checkpoint:=<folder or hub id>
"""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription
from molmo_ros.ros.bringup import (
    camera_names,
    fastdds_profile,
    need_rviz,
    need_web,
    parameter_file,
    remappings,
    rviz_frame,
    rviz_remappings,
    web_arguments,
)

SHARE = Path(get_package_share_directory("molmo_ros"))

ARGUMENTS = {
    "camera": (f"preset of the topics: {', '.join(camera_names(SHARE))}", "realsense"),
    "image": ("colour topic, instead of that of the preset", ""),
    "depth": ("depth topic, instead of that of the preset", ""),
    "camera_info": ("camera_info topic, instead of that of the preset", ""),
    "depth_camera_info": ("that of depth that is not aligned to colour; empty: the one beside depth", ""),
    "checkpoint": ("model: a folder, a cached hub id or 'tiny'; empty: as in params_file", ""),
    "runtime": (
        "onnx, openvino, cuda, tensorrt, tensorrt_rtx, eager, remote, auto; empty: as in params_file",
        "",
    ),
    "precision": ("auto, fp32, fp16, bf16, fp8, int8, int8_dynamic or int4; empty: as in params_file", ""),
    "allow_download": ("fetch a hub id that is not in the cache; empty: as in params_file", ""),
    "remote_url": ("runtime remote: address of the server; empty: as in params_file", ""),
    "remote_model": ("runtime remote: name of the model there; empty: as in params_file", ""),
    "remote_format": ("runtime remote: molmo1, molmo2, gemini or auto; empty: as in params_file", ""),
    "gripper": ("gripper preset or YAML file; empty: as in params_file", ""),
    "target_frame": ("frame of the targets, as base_link; empty: as in params_file", ""),
    "save_dir": ("folder for frames of failed queries (docs/eval_objects.md); empty: as in params_file", ""),
    "params_file": ("further parameters of the node", str(SHARE / "config" / "molmo.yaml")),
    "namespace": ("namespace of the node", ""),
    "autostart": ("configure and activate at start; false: wait for a manager", "true"),
    "use_sim_time": ("take the time from /clock", "false"),
    "web": ("serve the web view, a page on http://127.0.0.1:8137/ (docs/web.md)", "false"),
    "web_host": (
        "address of the web view; another than 127.0.0.1 wants a token, which is printed",
        "127.0.0.1",
    ),
    "web_port": ("port of the web view", "8137"),
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
    """The node molmo on the topics of the camera, and rviz2 if wanted. Everything is checked before any of
    them starts."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    wants_rviz = flag("rviz", values["rviz"])
    if wants_rviz:
        need_rviz(get_package_prefix)
    wants_web = flag("web", values["web"])
    if wants_web:
        need_web()
    molmo = Node(
        package="molmo_ros",
        executable="molmo_node",
        name="molmo",
        namespace=values["namespace"],
        parameters=[parameter_file(values["params_file"]), parameters(values)],
        remappings=remappings(SHARE, values),
        ros_arguments=["--enclave", "/molmo"],  # of config/policy.xml; without SROS 2 it means nothing
        additional_env=fastdds_profile(SHARE, os.environ),
        output="screen",
        emulate_tty=True,
    )
    wanted = [molmo]
    if wants_rviz:
        wanted.append(rviz(values))
    if wants_web:
        wanted.append(web(values))
    return wanted


def rviz(values: dict[str, str]) -> Node:
    """RViz with the targets, the annotated image and the camera's image."""
    config = str(SHARE / "config" / "molmo.rviz")
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", config, "-f", rviz_frame(SHARE, values)],
        remappings=rviz_remappings(SHARE, values),
    )


def web(values: dict[str, str]) -> Node:
    """The page that shows the node, in a process of its own."""
    return Node(
        package="molmo_ros",
        executable="web_node",
        arguments=web_arguments(values),
        ros_arguments=["--enclave", "/molmo_web"],
        additional_env=fastdds_profile(SHARE, os.environ),
        output="screen",
        emulate_tty=True,
    )


def parameters(values: dict[str, str]) -> dict[str, ParameterValue]:
    """What the arguments say; where one is empty, the parameter file decides."""
    remote = ("remote_url", "remote_model", "remote_format")
    texts = ("checkpoint", "runtime", "precision", *remote, "gripper", "target_frame", "save_dir")
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
