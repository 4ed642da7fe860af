"""Manifests are untrusted text, engines are code, and several processes may build the same one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.cli import main
from molmo_ros.errors import EngineError
from molmo_ros.locking import only_writer
from molmo_ros.runtimes.engine_store import MANIFEST, check_trusted, find_engine, read_manifest
from molmo_ros.tools import build_engine as builder

WANTED = ("auto", "tensorrt_rtx", "1.7.1", 86)


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return load_checkpoint("tiny")


@pytest.fixture(scope="module")
def exported(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    builder.export_graphs(tiny, "int4", "gpu", folder)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLMO_ROS_ENGINES", str(tmp_path / "home"))
    return tmp_path / "home"


def put(exported: Path, home: Path, name: str, **changes: Any) -> Path:
    """An engine in the default place whose manifest says something else."""
    folder = home / name
    shutil.copytree(exported, folder)
    fits = {"runtime": "tensorrt_rtx", "runtime_version": "1.7.1", "sm": 86}
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fits, **changes}))
    return folder


@pytest.mark.parametrize("date", ["zzzz", "", 3, None, [], {}, True])
def test_a_date_that_is_none_hides_no_good_engine(
    date: Any, exported: Path, home: Path, tiny: Checkpoint
) -> None:
    good = put(exported, home, "good")
    bad = put(exported, home, "bad", date=date)
    assert find_engine(tiny, *WANTED)[0] == good
    with pytest.raises(EngineError, match=MANIFEST):
        read_manifest(bad)


def test_the_newest_counts_whatever_the_time_zone(exported: Path, home: Path, tiny: Checkpoint) -> None:
    put(exported, home, "a", date="2026-11-01T12:00:00+00:00")
    newest = put(exported, home, "b", date="2026-11-01T10:00:00-05:00")
    put(exported, home, "c", date="2026-11-01T14:00:00")
    assert find_engine(tiny, *WANTED)[0] == newest


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"vision": {"name": "x", "sha256": ""}}},
        {"files": {"vision": {"name": "x", "bytes": "1", "sha256": ""}}},
        {"files": {"vision": {"name": "x", "bytes": -1, "sha256": ""}}},
        {"files": {"vision": {"name": "x", "bytes": 1, "sha256": None}}},
        {"files": {"vision": {"name": "../x", "bytes": 1, "sha256": ""}}},
        {"files": {"vision": {"name": "x" * 300, "bytes": 1, "sha256": ""}}},
        {"files": {"vision": []}}, {"files": []}, {"sm": "86"}, {"sm": None}, {"kv": 1}, {"precision": None},
        {"attention": None}, {"profiles": "x"}, {"graph_version": float("inf")}, {"checkpoint_hash": 5},
    ],
)  # fmt: skip
def test_nonsense_in_a_manifest_is_named_and_the_list_goes_on(
    changes: dict[str, Any], exported: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(exported, home, "good")
    bad = put(exported, home, "bad", **changes)
    with pytest.raises(EngineError, match=MANIFEST):
        read_manifest(bad)
    assert main(["engine", "list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("place", [".", MANIFEST, "decoder.engine"])
def test_what_everybody_may_write_is_not_run(
    place: str, exported: Path, home: Path, tiny: Checkpoint
) -> None:
    folder = put(exported, home, "engine")
    (folder / "decoder.engine").touch()
    check_trusted(folder)
    (folder / place).chmod(0o777)
    with pytest.raises(EngineError, match="everybody"):
        check_trusted(folder)
    with pytest.raises(EngineError, match="everybody"):
        find_engine(tiny, *WANTED)


def test_what_somebody_else_owns_is_not_run(
    exported: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = put(exported, home, "engine")
    owner = os.stat(folder).st_uid
    if owner != 0:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        with pytest.raises(EngineError, match="belongs"):
            check_trusted(folder)
        return
    os.chown(folder, 12345, -1)
    check_trusted(folder)
    assert "belongs to user 12345" in caplog.text
    monkeypatch.setattr(os, "geteuid", lambda: 12346)
    with pytest.raises(EngineError, match="belongs"):
        check_trusted(folder)


BUILD = """
import sys
from pathlib import Path
from molmo_ros.checkpoint.checkpoint import load_checkpoint
from molmo_ros.tools.build_engine import build_engine
from molmo_ros.tools.recipes import change, load_recipe

recipe = change(load_recipe("rtx"), sm=86, sequence=512)
stages = []
tiny, out = load_checkpoint("tiny"), Path(sys.argv[1])
folder, manifest = build_engine(tiny, recipe, out, lambda stage, share: stages.append(stage))
told = " ".join(stages)
print("waited" * ("waiting" in told), "built" * ("compiling decoder" in told))
print(manifest.date)
"""


def test_of_two_builds_at_once_one_builds_and_one_waits(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13 to compile in tests")
    command = [sys.executable, "-c", BUILD, str(tmp_path / "e")]
    builds = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = sorted(build.communicate(timeout=300)[0].split() for build in builds)
    assert [build.returncode for build in builds] == [0, 0]
    assert [words[0] for words in told] == ["built", "waited"]
    assert told[0][-1] == told[1][-1]  # the same engine


def test_graphs_that_several_processes_want_are_written_once(tmp_path: Path) -> None:
    code = """
import time
from molmo_ros.checkpoint.checkpoint import load_checkpoint
from molmo_ros.runtimes import export
from molmo_ros.network.precision import FP32
real = export.export
export.export = lambda *a, **k: (print("wrote"), time.sleep(1), real(*a, **k))
print(export.cached_export(load_checkpoint("tiny"), FP32))
"""
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    writers = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(3)
    ]
    told = [writer.communicate(timeout=120)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert sum("wrote" in words for words in told) == 1
    assert len({words[-1] for words in told}) == 1 and Path(told[0][-1], "decoder.onnx").is_file()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from molmo_ros.locking import only_writer
with only_writer(Path({str(tmp_path / "x")!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    child.kill()
    child.wait()
    start = time.monotonic()
    with only_writer(tmp_path / "x") as waited:
        assert not waited and time.monotonic() - start < 10
