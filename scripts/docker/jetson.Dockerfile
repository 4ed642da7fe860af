# molmo_ros on a Jetson, with CUDA and TensorRT of the base image. On the Jetson:
#   JetPack 6 (Orin):  docker build -f scripts/docker/jetson.Dockerfile -t molmo_ros .
#   JetPack 7 (Thor):  docker build -f scripts/docker/jetson.Dockerfile -t molmo_ros \
#     --build-arg BASE_IMAGE=nvcr.io/nvidia/tensorrt:25.08-py3 --build-arg ROS_DISTRO=jazzy \
#     --build-arg CUDA_PYTHON="cuda-python<13.1" .
#   docker run --rm --runtime nvidia --network host -v ~/Molmo2-4B:/model:ro -v ~/engines:/engines molmo_ros \
#     ros2 launch molmo_ros molmo.launch.py camera:=realsense checkpoint:=/model rviz:=false
# cuda-python must not be newer than the CUDA of the driver (docs/jetson.md).
ARG BASE_IMAGE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
# hadolint ignore=DL3006
FROM ${BASE_IMAGE}

ARG ROS_DISTRO=humble
ARG CUDA_PYTHON="cuda-python<12.7"
ARG ROS_APT_SOURCE=1.1.0
ENV ROS_DISTRO=${ROS_DISTRO} LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# ROS's own package adds its repository and key. Versions are those of the distribution: ROS keeps only the newest.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl python3-venv \
    && codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release) \
    && releases=https://github.com/ros-infrastructure/ros-apt-source/releases/download \
    && curl -fsSL -o /tmp/ros.deb "$releases/$ROS_APT_SOURCE/ros2-apt-source_$ROS_APT_SOURCE.${codename}_all.deb" \
    && dpkg -i /tmp/ros.deb \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        python3-colcon-common-extensions python3-rosdep "ros-$ROS_DISTRO-ros-base" \
    && rosdep init \
    && rm -rf /tmp/ros.deb /var/lib/apt/lists/*

COPY package.xml /ws/src/molmo_ros/package.xml
# hadolint ignore=DL3008
RUN apt-get update \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install --from-paths /ws/src -y --ignore-src --skip-keys "rviz2" \
    && rm -rf /var/lib/apt/lists/*

COPY requirements /ws/src/molmo_ros/requirements
RUN /usr/bin/python3 -m venv --system-site-packages /opt/molmo_venv \
    && /opt/molmo_venv/bin/pip install --no-cache-dir "numpy<2" "scipy>=1.11" "$CUDA_PYTHON" \
        -r /ws/src/molmo_ros/requirements/base.txt

COPY . /ws/src/molmo_ros
WORKDIR /ws
# shellcheck disable=SC1090,SC1091
RUN . "/opt/ros/$ROS_DISTRO/setup.bash" && colcon build --packages-select molmo_ros

RUN useradd --create-home --uid 10001 robot
USER 10001
ENTRYPOINT ["/ws/src/molmo_ros/scripts/docker/entrypoint.sh"]
CMD ["ros2", "launch", "molmo_ros", "molmo.launch.py", "rviz:=false"]
