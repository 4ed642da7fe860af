#!/usr/bin/env python3
"""Write requirements/lock.txt: the development environment with one hash for each package.

    scripts/env.sh python scripts/lock.py            # needs the package index; installs nothing
    pip install --no-deps --require-hashes -r requirements/lock.txt

The lock is of CPython 3.11 on Linux x86-64. PyTorch is left out: its build without CUDA has other hashes than
that of the same version with CUDA, and pip's configuration says which is taken (CONTRIBUTING.md); install it
first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "lock.txt"
PARTS = ("base", "sim", "openvino", "eager", "dev", "eval", "bag", "mcp", "points", "colcon", "ros-wheels")
LEFT_OUT = {"torch"}
HEAD = """\
# Written by scripts/lock.py: CPython 3.11, Linux x86-64, all but PyTorch. One hash a package.
#   pip install --no-deps --require-hashes -r requirements/lock.txt
"""


def lines(report: dict[str, list[dict[str, dict[str, dict[str, dict[str, str]]]]]]) -> list[str]:
    """``name==version --hash=sha256:...`` of each package in a report of pip, by name."""
    found = []
    for entry in report["install"]:
        name, version = (str(entry["metadata"][key]) for key in ("name", "version"))
        digest = entry["download_info"]["archive_info"]["hashes"]["sha256"]
        if name.lower() not in LEFT_OUT:
            found.append(f"{name.lower().replace('_', '-')}=={version} --hash=sha256:{digest}")
    return sorted(found)


def main() -> int:
    """Exit status of pip."""
    files = [word for part in PARTS for word in ("-r", str(ROOT / "requirements" / f"{part}.txt"))]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--report", "-", "-c", str(ROOT / "constraints.txt"), *files]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        LOCK.write_text(HEAD + "\n".join(lines(json.loads(done.stdout))) + "\n")
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
