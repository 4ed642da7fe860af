#!/usr/bin/env bash
# Build wheel and sdist, install the wheel into an empty environment without ROS, and run the demo there.
#   scripts/try_wheel.sh [DIST_DIR]     PYTHON=python3.12 chooses the interpreter
# Downloads what the extra "sim" needs, some 600 MB. test/test_wheel.py does the same with the packages that are there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
dist=$(realpath -m "${1:-dist}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install --disable-pip-version-check -q build
"$work/tools/bin/python" -m build --outdir "$dist" .

wheel=$(find "$dist" -name 'molmo_ros-*.whl' -newer "$work/tools/pyvenv.cfg")
"$python" -m venv "$work/empty"
"$work/empty/bin/pip" install --disable-pip-version-check -q "${wheel}[sim]"

cd "$work"
unset PYTHONPATH AMENT_PREFIX_PATH
if "$work/empty/bin/python" -c 'import rclpy' 2>/dev/null; then
  echo "rclpy is there: this environment is not without ROS." >&2
  exit 1
fi
"$work/empty/bin/molmo-ros" demo --seed 7 --out demo.png
"$work/empty/bin/python" -c 'import importlib.metadata as m, molmo_ros as p; assert m.version("molmo_ros") == p.__version__, p.__version__'
test -s demo.png
echo "ok: $(basename "$wheel"), installed and tried with $("$python" --version)"
