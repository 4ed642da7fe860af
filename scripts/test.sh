#!/usr/bin/env bash
# All checks, in the environment of scripts/env.sh:  scripts/test.sh [lint|core|ros]...
# Tests run in as many processes as there are cores, four at most; TEST_WORKERS=0 runs them in one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Threads that wait for each other are slower than none, and every test process would start its own.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-1}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# Tests start a hundred processes; without its byte code each would compile what it imports, 20 s for torch alone.
unset PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX=$PWD/build/pycache
# A domain of our own: nodes that run on this machine must not answer the tests' queries.
export ROS_DOMAIN_ID=${ROS_DOMAIN_ID:-$((1 + $$ % 100))} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST

say() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

lint() {
  local status=0
  say "ruff"
  ruff check . || status=1
  ruff format --check . || status=1
  say "mypy"
  mypy || status=1
  return $status
}

# A file stays in one process, which keeps what its tests share; test/conftest.py says which files begin.
in_parallel() {
  pytest -q -n "${TEST_WORKERS:-auto}" --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
}

core() {
  say "tests of the library"
  in_parallel --ignore=test/ros test
}

ros() {
  say "tests with ROS 2 nodes"
  in_parallel test/ros
}

[ $# -gt 0 ] || set -- lint core ros
failed=
for part in "$@"; do
  case $part in
  lint | core | ros) ;;
  *) echo "Usage: scripts/test.sh [lint|core|ros]..." >&2 && exit 2 ;;
  esac
  # All parts run, so that one report names all that is wrong; errexit would be off in a condition.
  set +e
  (set -e; "$part")
  [ $? -eq 0 ] || failed="$failed $part"
  set -e
done
[ -z "$failed" ] || { say "failed:$failed" && exit 1; }
say "all passed"
