"""A full disk or kill -9 while an engine is written: nothing half-written, and the next try works."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from molmo_ros.runtimes.engine_store import Manifest, check_files, list_engines

MOST_BYTES = 300_000  # of a file; the weights of the built-in model are larger


def limit() -> None:
    """As on a full disk, write() fails in the middle of a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_BYTES, MOST_BYTES))


def test_a_full_disk(tmp_path: Path) -> None:
    env = {**os.environ, "MOLMO_ROS_ENGINES": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "molmo_ros.cli", "engine", "export", "--precision", "int8"]
    full = subprocess.run(command, env=env, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert full.returncode == 1 and "Traceback" not in full.stderr
    assert "File too large" in full.stderr and str(tmp_path) in full.stderr
    assert not list(tmp_path.rglob("*.onnx")) and not list(list_engines(tmp_path))
    subprocess.run(command, env=env, capture_output=True, check=True)
    ((folder, _),) = list_engines(tmp_path)
    (folder / "manifest.json").unlink()  # as after kill -9 in the last moment
    subprocess.run(command, env=env, capture_output=True, check=True)
    ((folder, manifest),) = list_engines(tmp_path)
    assert isinstance(manifest, Manifest)
    check_files(folder, manifest)


def test_an_export_that_is_killed(tmp_path: Path) -> None:
    """kill -9 as soon as the first byte of a graph is there."""
    env = {**os.environ, "MOLMO_ROS_ENGINES": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "molmo_ros.cli", "engine", "export", "--precision", "int8"]
    export = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.rglob("*.onnx*")):
        assert export.poll() is None, "ended before it could be killed"
        time.sleep(0.001)
    export.kill()
    assert export.wait() == -signal.SIGKILL
    assert not list(list_engines(tmp_path))
    subprocess.run(command, env=env, capture_output=True, check=True)
    ((folder, manifest),) = list_engines(tmp_path)
    assert isinstance(manifest, Manifest)
    check_files(folder, manifest)
