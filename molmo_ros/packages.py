"""What to say when a Python package is missing: which one, where, and the command that installs it."""

from __future__ import annotations

import sys

# Modules whose package has another name, and those that an extra of this package installs.
PACKAGES = {
    "PIL": "pillow",
    "cuda": "cuda-python",
    "cv2": "opencv-python-headless",
    "yaml": "pyyaml",
}
EXTRAS = {
    "matplotlib": "eval",
    "mcp": "mcp",
    "mujoco": "eval",
    "open3d": "sim",
    "pyarrow": "points",
    "rosbags": "bag",
    "starlette": "web",
    "rerun": "rerun",
    "torch": "eager",
    "transformers": "eager",
    "uvicorn": "web",
    "websockets": "web",
}
ROS = ("rclpy", "ament_index_python", "tf2_ros", "launch", "launch_ros")


def missing_package(error: ModuleNotFoundError) -> str:
    """One line for a user: the package that is missing, and the command."""
    module = (error.name or str(error)).split(".")[0]
    if module in ROS or module == "molmo_ros" or module.endswith("_msgs"):
        return (
            f"{error.name} is missing: it comes with ROS 2 and the build of this package; source the ROS "
            "installation and the workspace, or run make demo."
        )
    where = "" if sys.prefix != sys.base_prefix else ", in the virtual environment of README (On a robot)"
    command = f"python3 -m pip install {PACKAGES.get(module, module)}"
    if module in EXTRAS:
        command = f'python3 -m pip install ".[{EXTRAS[module]}]" in the folder of molmo_ros'
    return f"The Python package {module} is missing in {sys.executable}: {command}{where}"
