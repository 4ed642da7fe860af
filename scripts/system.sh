# shellcheck shell=bash
# What the system must have: a compiler, CMake, the libraries that Open3D loads, a Python. Sourced by setup.sh.

# Which ROS 2: the one that is sourced, else wheels.
find_ros() {
  ros=wheels ros_text="ROS 2 Jazzy wheels"
  if [ -n "${ROS_DISTRO:-}" ] && [ -n "${AMENT_PREFIX_PATH:-}" ]; then
    if "${PYTHON:-python3}" -c "import rclpy; rclpy.init()" 2>/dev/null; then
      ros=$ROS_DISTRO ros_text="for the sourced ROS 2 $ROS_DISTRO"
      return
    fi
    echo "  ROS 2 $ROS_DISTRO is sourced, but ${PYTHON:-python3} cannot import its rclpy: taking wheels instead"
  fi
  if [ "$(uname -sm)" != "Linux x86_64" ]; then
    die "ROS 2 wheels exist for Linux on x86-64 only, and this is $(uname -sm)." \
      "Install ROS 2 (Humble, Jazzy or Kilted), then: source /opt/ros/<distro>/setup.bash"
  fi
}

usable_python() {
  "$1" -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

find_python() {
  local candidate
  python=
  for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
    if usable_python "$candidate"; then
      python=$(command -v "$candidate")
      python_version="Python $("$python" -c 'import platform; print(platform.python_version())')"
      return
    fi
  done
  die "No usable Python: 3.10, 3.11 or 3.12 is needed, and ${PYTHON:-python3} is $("${PYTHON:-python3}" -V 2>/dev/null || echo not there)." \
    "Install one (for example: apt-get install python3.12 python3.12-venv python3.12-dev), then: make PYTHON=python3.12 ..."
}

has_library() { ldconfig -p 2>/dev/null | grep -q "$1" || /sbin/ldconfig -p | grep -q "$1"; }

# Names of the Debian packages that are missing, one per line.
missing_packages() {
  local interpreter=${python:-python3}
  command -v g++ >/dev/null || echo g++
  command -v make >/dev/null || echo make
  command -v cmake >/dev/null || echo cmake
  has_library libEGL.so.1 || echo libegl1
  has_library libGL.so.1 || echo libgl1
  has_library libusb-1.0.so.0 || echo libusb-1.0-0
  has_library libgomp.so.1 || echo libgomp1
  "$interpreter" -c "import ensurepip, venv" 2>/dev/null || echo "$(debian_python "$interpreter")-venv"
  [ -f "$("$interpreter" -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null)/Python.h" ] ||
    echo "$(debian_python "$interpreter")-dev"
}

# python3 for the system's own interpreter, else python3.X.
debian_python() {
  case $(command -v "$1") in
  *python3.*) basename "$1" ;;
  *) echo python3 ;;
  esac
}

# Install what is missing if we may, else say the one line that does it.
provide_system() {
  missing=$(missing_packages | tr '\n' ' ') missing=${missing% }
  [ -n "$missing" ] || return 0
  local line="apt-get update && apt-get install -y --no-install-recommends $missing"
  if ! command -v apt-get >/dev/null; then
    die "Missing on this system: $missing (Debian's names). Install them, then run the same command again."
  elif [ "$(id -u)" -ne 0 ] && ! sudo -n true 2>/dev/null; then
    die "Missing on this system: $missing. Run this line, then the same command again:" "  sudo sh -c '$line'"
  fi
  step "System packages ($missing)" install_system
  [ -z "$(missing_packages)" ] || die "Still missing after their installation: $(missing_packages | tr '\n' ' ')"
}

install_system() {
  local run=()
  [ "$(id -u)" -eq 0 ] || run=(sudo -n)
  "${run[@]}" apt-get update
  # shellcheck disable=SC2086
  "${run[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
}

# Gigabytes that the set-up takes, with the package manager's own temporary files.
check_disk() {
  local need=3 free
  [ "$layer" = demo ] || need=6
  [ ! -f "$venv/stamps/build" ] || return 0
  free=$(df -Pk "$repo" | awk 'NR==2{print int($4 / 1048576)}')
  [ "$free" -ge "$need" ] || die "About $need GB of disk are needed under $repo, and $free GB are free. Free some, then run the same command again."
}
