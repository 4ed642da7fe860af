"""No robot at hand: a simulated RGB-D camera and the node molmo on it.

ros2 launch molmo_ros demo.launch.py rviz:=true
ros2 service call /molmo/ground molmo_ros/srv/Ground "{query: the red mug, grasp: true}"

The camera logs what else is in its scene; seed:=7 shows another one.
"""

from __future__ import annotations

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription
from molmo_ros.ros.bringup import fastdds_profile
from molmo_ros.ros.config import SimCameraConfig

SHARE = Path(get_package_share_directory("molmo_ros"))
ARGUMENTS = {
    "seed": ("which scene the camera sees", str(SimCameraConfig.seed)),
    "rate": ("frames per second", str(SimCameraConfig.rate)),
    "namespace": ("namespace of both nodes", ""),
}


def generate_launch_description() -> LaunchDescription:
    """The simulated camera, and molmo.launch.py with camera:=sim; its other arguments work here too."""
    camera = Node(
        package="molmo_ros",
        executable="sim_camera_node",
        namespace=LaunchConfiguration("namespace"),
        ros_arguments=["--enclave", "/sim_camera"],
        parameters=[
            {
                "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
            }
        ],
        additional_env=fastdds_profile(SHARE, os.environ),
        output="screen",
        emulate_tty=True,
    )
    molmo = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "molmo.launch.py")),
        launch_arguments={"camera": "sim"}.items(),
    )
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (text, default) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, molmo, camera])  # molmo first: it checks the arguments
