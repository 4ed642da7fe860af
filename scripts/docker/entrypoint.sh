#!/usr/bin/env bash
# Source ROS, the workspace and the virtual environment, then run the command.
set -e
# shellcheck disable=SC1090,SC1091
. "/opt/ros/$ROS_DISTRO/setup.bash"
# shellcheck disable=SC1091
. /ws/install/setup.bash
# shellcheck disable=SC1091
. /opt/molmo_venv/bin/activate
exec "$@"
