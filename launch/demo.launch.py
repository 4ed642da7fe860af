"""No robot at hand: a simulated RGB-D camera and the node molmo on it.

ros2 launch molmo_ros demo.launch.py seed:=3 rviz:=true
ros2 service call /molmo/ground molmo_ros/srv/Ground "{query: the red mug}"
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

MOLMO = Path(get_package_share_directory("molmo_ros")) / "launch" / "molmo.launch.py"


def generate_launch_description() -> LaunchDescription:
    """The simulated camera, and molmo.launch.py with camera:=sim; its other arguments work here too."""
    camera = Node(
        package="molmo_ros",
        executable="sim_camera_node",
        ros_arguments=["--enclave", "/sim_camera"],
        parameters=[
            {
                "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
            }
        ],
    )
    molmo = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(MOLMO)), launch_arguments={"camera": "sim"}.items()
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("seed", default_value="0", description="which scene the camera sees"),
            DeclareLaunchArgument("rate", default_value="10.0", description="frames per second"),
            camera,
            molmo,
        ]
    )
