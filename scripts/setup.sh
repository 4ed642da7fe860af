#!/usr/bin/env bash
# Set up everything that "make demo" needs, or with "dev" also what "make test" needs.
#   scripts/setup.sh [demo|dev]
# Each step leaves a stamp that names its inputs and is skipped while they are the same.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
venv=$repo/.venv
layer=${1:-demo}
# shellcheck source=scripts/lib.sh
. scripts/lib.sh
# shellcheck source=scripts/system.sh
. scripts/system.sh

make_venv() {
  local options=()
  [ "$ros" = wheels ] || options+=(--system-site-packages)
  "$python" -m venv --clear "${options[@]}" "$venv"
}

# The message libraries of a ROS 2 installation were compiled for its numpy: the same major version must stay.
install_packages() {
  local constraints=constraints.txt
  if [ "$ros" != wheels ]; then
    constraints=$venv/constraints.txt
    "$python" -c 'import numpy; print("numpy<2" if numpy.__version__ < "2" else "numpy>=2")' >"$constraints"
    grep -E '^(torch|transformers)==' constraints.txt >>"$constraints"
  fi
  local files=() file
  for file in "$@"; do files+=(-r "requirements/$file.txt"); done
  install_fast "${files[@]}" ||
    # Compiling thousands of files that nothing imports takes longer than all the rest.
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile -c "$constraints" "${files[@]}"
}

# uv does at once what pip does one after the other. It knows nothing of pip's configuration (mirrors, wheels on disk)
# and does not see the packages of the system: what it cannot do, or should not, is left to pip.
install_fast() {
  [ "$ros" = wheels ] && [ "$fast" = yes ] || return
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile -c constraints.txt uv || return
  "$venv/bin/uv" pip install --no-cache --python "$venv/bin/python" -c constraints.txt "$@"
}

install_runtime() {
  local fast=yes
  rm -rf build install
  local files=(base sim openvino)
  [ "$ros" != wheels ] || files+=(ros-wheels)
  command -v colcon >/dev/null && [ "$ros" != wheels ] || files+=(colcon)
  install_packages "${files[@]}"
  [ "$ros" != wheels ] || "$venv/bin/python" scripts/fix_ros_wheels.py
}

install_dev() {
  local fast=no  # a torch without CUDA may lie where only pip's configuration says
  install_packages base sim eager dev
}

build() {
  # Through a link, because CMake refuses include folders (numpy's, in .venv) that lie under the source folder.
  # Symbolic links in the installation: a change of a Python file needs no new build, only a new file does.
  rm -rf install
  mkdir -p build/src
  ln -sfn ../.. build/src/molmo_ros
  local options=(-DBUILD_TESTING=ON "-DPython3_EXECUTABLE=$venv/bin/python")
  [ "$ros" != wheels ] || options+=(-DCPP_INTERFACES=OFF)  # the wheels have no rclcpp
  # All cores: by itself colcon lets make use one alone while the load of the last minute is high.
  MAKEFLAGS=${MAKEFLAGS:--j$(nproc)} scripts/env.sh colcon --log-base build/log build --symlink-install \
    --base-paths build/src --executor sequential --event-handlers console_direct+ --cmake-args "${options[@]}"
  scripts/env.sh python -c "from molmo_ros.msg import GraspTarget; from molmo_ros.srv import Ground; GraspTarget(); Ground.Request()"
}

main() {
  case $layer in demo | dev) ;; *) die "Usage: scripts/setup.sh [demo|dev]" ;; esac
  find_ros
  find_python
  check_disk
  provide_system
  lock
  local base
  base="$repo $ros $("$python" -c 'import sys; print(sys.version)')"
  stamped venv "Python environment ($python_version)" make_venv "$base"
  stamped packages "Python packages ($ros_text)" install_runtime "$base" \
    requirements/{base,sim,openvino,ros-wheels,colcon}.txt constraints.txt scripts/fix_ros_wheels.py
  if [ "$layer" = dev ]; then
    stamped dev "Development packages (PyTorch, linters)" install_dev "$base" requirements/{base,sim,eager,dev}.txt constraints.txt
  fi
  stamped build "Interfaces and package (colcon build)" build "$base" CMakeLists.txt package.xml msg srv action \
    scripts/bin names:molmo_ros names:launch names:config names:engines
}

main
