# shellcheck shell=bash
# Steps with a line of progress each, skipped while their inputs are unchanged. Sourced by setup.sh and test.sh.

started=${MOLMO_STARTED:-$SECONDS}
logs=${repo:?}/.cache/log

die() {
  printf '%s\n' "$@" >&2
  exit 1
}

# The last lines of a failed step's log, and what they mean where that is known.
explain() {
  local log=$1
  printf '\nThe end of %s:\n' "${log#"$repo/"}" >&2
  tail -n 25 "$log" | sed 's/^/  | /' >&2
  if grep -qi "no space left" "$log"; then
    die "The disk is full: free some space ($(df -hP "$repo" | awk 'NR==2{print $4}') left), then run the same command again."
  elif grep -qiE "failed to establish a new connection|temporary failure in name resolution|connection timed out" "$log"; then
    die "The package index cannot be reached: check the network or the proxy, then run the same command again."
  elif grep -qi "no matching distribution found" "$log"; then
    die "The package index has no wheel for this Python on this machine: try another one, for example: make PYTHON=python3.12 ..."
  elif grep -qi "killed signal\|out of memory\|MemoryError" "$log"; then
    die "The memory did not suffice: close other programs, then run the same command again."
  fi
}

# step TITLE COMMAND...: run it with its output in a log, and print one line.
step() {
  local title=$1 begin=$SECONDS log
  shift
  mkdir -p "$logs"
  log=$logs/$(printf '%s' "$1" | tr -c 'a-zA-Z0-9\n' '_').log
  printf '  %-58s ' "$title ..."
  # A subshell with its own -e: in a condition, a failing line inside the function would be passed over.
  set +e
  (set -e; "$@") >"$log" 2>&1
  local status=$?
  set -e
  if [ "$status" -ne 0 ]; then
    printf 'failed after %d s\n' $((SECONDS - begin))
    explain "$log"
    exit "$status"
  fi
  printf '%4d s\n' $((SECONDS - begin))
}

# fingerprint WORD-OR-PATH...: a hash of words, of the contents of files and folders, and for names:FOLDER of the
# names in it alone.
fingerprint() {
  local item
  for item in "$@"; do
    if [ "${item#names:}" != "$item" ]; then
      [ ! -d "${item#names:}" ] || find "${item#names:}" -name __pycache__ -prune -o -type f ! -name '*.pyc' -print | LC_ALL=C sort
    elif [ -e "$item" ]; then
      find "$item" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    else
      printf '%s\n' "$item"
    fi
  done | sha256sum | cut -d' ' -f1
}

# stamped NAME TITLE COMMAND INPUT...: a step that is skipped if its inputs are those of the last good run.
# A step that ran makes the later ones run, since they build on it.
stale=no
stamped() {
  local name=$1 title=$2 command=$3 stamp print
  shift 3
  stamp=${venv:?}/stamps/$name
  print=$(fingerprint "$@")
  if [ "$stale" = no ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$print" ]; then
    return
  fi
  rm -f "$stamp"
  step "$title" "$command"
  mkdir -p "$(dirname "$stamp")"
  printf '%s\n' "$print" >"$stamp"
  [ "$name" = dev ] || stale=yes
}

# One set-up at a time per checkout.
lock() {
  command -v flock >/dev/null || return 0
  mkdir -p "$repo/.cache"
  exec 9>"$repo/.cache/setup.lock"
  flock -n 9 || { echo "  waiting for another set-up of this checkout ..."; flock 9; }
}
