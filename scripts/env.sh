#!/usr/bin/env bash
# Run a command in the project's environment: its Python, ROS 2, and the built molmo_ros.
#   scripts/env.sh molmo-ros demo        scripts/env.sh python -c "from molmo_ros.srv import Ground"
# Set the environment up first with scripts/setup.sh (make demo and make test do).
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$repo/.venv
if [ ! -x "$venv/bin/python" ]; then
  echo "The environment does not exist yet: run $repo/scripts/setup.sh" >&2
  exit 2
fi

# The built package is what counts, not the source tree that happens to be the current folder (Python 3.11 on).
export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH PYTHONSAFEPATH=1
if compgen -G "$venv/lib/python3.*/site-packages/rclpy" >/dev/null; then
  # ROS 2 from wheels: the environment itself is the ament prefix. The wheels' own libraries are found by
  # LD_LIBRARY_PATH; a ROS 2 that is sourced as well is kept out, two would mix.
  unset PYTHONPATH ROS_VERSION ROS_PYTHON_VERSION
  export ROS_DISTRO=jazzy AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv LD_LIBRARY_PATH=$venv/lib
fi
# shellcheck disable=SC1091
[ ! -f "$repo/install/local_setup.bash" ] || . "$repo/install/local_setup.bash"

# Nothing here needs the network: keep discovery on this machine unless told otherwise.
if [ -z "${ROS_DOMAIN_ID:-}" ]; then
  export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
  [ "${ROS_DISTRO:-}" != humble ] || export ROS_LOCALHOST_ONLY=${ROS_LOCALHOST_ONLY:-1}
fi

[ $# -gt 0 ] || set -- "${SHELL:-bash}"
exec "$@"
