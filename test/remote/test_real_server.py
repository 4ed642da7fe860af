"""Against ``transformers serve`` with the built-in model."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest
from toy_scene import make_frame

import molmo_ros
from molmo_ros import io
from molmo_ros.cli import main
from molmo_ros.errors import CancelledError
from molmo_ros.pipeline import Grounder
from molmo_ros.runtimes.remote.remote import RemoteMolmo, RemoteOptions

ROOT = Path(molmo_ros.__file__).parent.parent


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, model) of ``transformers serve`` with the built-in model."""
    missing = [
        name for name in ("torch", "transformers", "fastapi", "uvicorn", "openai") if not find_spec(name)
    ]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)}: pip install 'transformers[serving]'")
    folder = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(ROOT / "molmo_ros" / "assets" / "tiny", folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [602, 600], "pad_token_id": 600}')
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    command = [sys.executable, str(Path(__file__).parent / "serve_tiny.py"), str(folder), str(port)]
    with (folder.parent / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
        try:
            _wait_for(f"http://localhost:{port}/health", process, folder.parent / "log")
            yield f"http://localhost:{port}/v1", str(folder)
        finally:
            process.terminate()
            process.wait(20)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no server: {log.read_text()[-2000:]}")


def test_a_real_server_gives_the_points_of_the_local_runtime(serving: tuple[str, str]) -> None:
    from molmo_ros.sim import SimCamera

    url, name = serving
    local = Grounder.load()
    far = Grounder(RemoteMolmo(RemoteOptions(url=url, model=name, timeout_s=60.0)), local.gripper)
    found = 0
    for seed in (11, 12, 13):
        camera = SimCamera(seed)
        frame = camera.frame()
        for query in ["the " + camera.truth.objects[0].name, "the blue banana"]:
            here, there = local.point(frame.rgb, query), far.point(frame.rgb, query)
            assert there.text == here.text
            assert [(p.x, p.y, p.label) for p in there.points] == [(p.x, p.y, p.label) for p in here.points]
            found += len(here.points)
    assert found >= 2  # not only words of absence were compared


def test_the_command_asks_a_real_server(
    serving: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from molmo_ros.sim import SimCamera

    url, name = serving
    io.write_color(tmp_path / "table.png", SimCamera(0).frame().rgb)
    ground = ["ground", str(tmp_path / "table.png"), "the white bowl", "--runtime", "remote"]
    assert main([*ground, "--remote-url", url, "--remote-model", name]) == 0
    assert "confidence unknown" in capfd.readouterr().out
    assert main([*ground, "--remote-url", url, "--remote-model", "other", "--json"]) == 1
    result = json.loads(capfd.readouterr().out)
    assert result["code"] == "SERVER" and "pinned" in result["error"]


def test_cancel_stops_a_real_server(serving: tuple[str, str]) -> None:
    url, name = serving
    rgb = make_frame(160, 120)[0].rgb
    model = RemoteMolmo(RemoteOptions(url=url, model=name, timeout_s=60.0))
    with pytest.raises(CancelledError):
        model.answer(rgb, "What is there?", max_new_tokens=1000, should_stop=lambda: True)
    assert model.answer(rgb, "Point to the red can.").text  # and it answers the next one
