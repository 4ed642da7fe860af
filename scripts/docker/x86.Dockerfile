# molmo_ros on x86-64, on the CPU.
#   docker build -f scripts/docker/x86.Dockerfile -t molmo_ros --build-arg ROS_DISTRO=jazzy .
#   docker run --rm --network host -v ~/Molmo2-4B:/model:ro molmo_ros \
#     ros2 launch molmo_ros molmo.launch.py camera:=realsense checkpoint:=/model rviz:=false
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# Versions are those of the distribution: ROS keeps only the newest of each package.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

COPY package.xml /ws/src/molmo_ros/package.xml
# hadolint ignore=DL3008
RUN apt-get update \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install --from-paths /ws/src -y --ignore-src --skip-keys "rviz2" \
    && rm -rf /var/lib/apt/lists/*

COPY requirements /ws/src/molmo_ros/requirements
RUN python3 -m venv --system-site-packages /opt/molmo_venv \
    && /opt/molmo_venv/bin/pip install --no-cache-dir "numpy<2" \
        -r /ws/src/molmo_ros/requirements/base.txt \
        -r /ws/src/molmo_ros/requirements/openvino.txt

COPY . /ws/src/molmo_ros
WORKDIR /ws
# shellcheck disable=SC1090,SC1091
RUN . "/opt/ros/$ROS_DISTRO/setup.bash" && colcon build --packages-select molmo_ros

RUN useradd --create-home --uid 10001 robot
USER 10001
ENTRYPOINT ["/ws/src/molmo_ros/scripts/docker/entrypoint.sh"]
CMD ["ros2", "launch", "molmo_ros", "molmo.launch.py", "rviz:=false"]
