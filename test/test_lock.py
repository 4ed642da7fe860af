"""The lock of the development environment and the list of licences: whole, and of the tested versions."""

from __future__ import annotations

import re
import runpy
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
LINE = re.compile(r"^([a-z0-9.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}$")
LICENCES: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "licences.py"))
LOCK: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "lock.py"))
ROW = re.compile(r"^\| ([a-z0-9._-]+) \| ([^|]+) \| ([a-z, ]+) \|$", re.MULTILINE)


def locked() -> dict[str, str]:
    """package -> version of the lock; every line has a hash."""
    found = {}
    for line in LOCK["LOCK"].read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            match = LINE.match(line)
            assert match, f"no hash: {line}"
            found[match[1]] = match[2]
    return found


def test_the_lock_has_all_that_is_required_but_torch() -> None:
    named = {name for part in LOCK["PARTS"] for name in LICENCES["named"](part)}
    assert named - set(locked()) == {"torch", "open3d"}  # open3d is for other machines than the lock's


def test_the_lock_has_the_tested_versions() -> None:
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        pin, _, condition = line.partition(";")
        if "==" in pin and "<" not in condition:
            name, number = pin.strip().split("==")
            pinned[name.lower().replace("_", "-")] = number
    wrong = {
        name: (number, pinned[name])
        for name, number in locked().items()
        if pinned.get(name, number) != number
    }
    assert not wrong, "write it anew: scripts/env.sh python scripts/lock.py"


def test_the_page_of_licences_is_whole() -> None:
    page = {
        name: (told, layers)
        for name, told, layers in ROW.findall(LICENCES["PAGE"].read_text(encoding="utf-8"))
    }
    direct = {name for layer in LICENCES["LAYERS"] for name in LICENCES["named"](layer)}
    assert direct - set(page) <= {"open3d"}
    if sys.version_info[:2] == (3, 11):  # others need other packages in turn
        assert LICENCES["rows"]().items() <= page.items(), "write it anew: scripts/licences.py"
    assert all(told.strip() for told, _ in page.values())
    assert not [name for name, (told, _) in page.items() if re.search(r"\bA?GPL", told)]


def test_a_report_of_pip_becomes_lines() -> None:
    digest = "0" * 64
    entry = {
        "metadata": {"name": "Huggingface_Hub", "version": "1.0"},
        "download_info": {"archive_info": {"hashes": {"sha256": digest}}},
    }
    torch = {**entry, "metadata": {"name": "torch", "version": "2"}}
    assert LOCK["lines"]({"install": [torch, entry]}) == [f"huggingface-hub==1.0 --hash=sha256:{digest}"]


@pytest.mark.parametrize("name", ["numpy", "onnxruntime"])
def test_what_is_installed_here_is_what_is_locked(name: str) -> None:
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the lock is of Python 3.11")
    assert version(name) == locked()[name]
