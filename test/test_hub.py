"""Hub ids: fetched by the real client from a server on this machine, and only when that is allowed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny_molmo2 import write_checkpoint

NAME, COMMIT = "somebody/Molmo2-Tiny", "a" * 40
LOAD = """
import sys
from molmo_ros.checkpoint.checkpoint import load_checkpoint
print(load_checkpoint(sys.argv[1], allow_download=sys.argv[2] == "yes").folder)
"""


class Hub(BaseHTTPRequestHandler):
    """What the client needs of a hub that has one repository."""

    folder: Path
    asked: list[str]
    stuck: threading.Event | None = None  # set once half of the weights has been sent, and no more will come

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        if not self.path.startswith(f"/api/models/{NAME}/"):
            return self._file(body=True)
        files = sorted(self.folder.iterdir())
        facts: object = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": p.name} for p in files]}
        if "/tree/" in self.path:
            facts = [{"type": "file", "path": p.name, "oid": "0", "size": p.stat().st_size} for p in files]
        self._send(json.dumps(facts).encode(), {"Content-Type": "application/json"}, body=True)

    def _file(self, body: bool) -> None:
        name = self.path.split("?")[0].rsplit("/", 1)[1]
        if not self.path.startswith(f"/{NAME}/resolve/"):
            return self.send_error(404)
        self.asked.append(name)
        content = (self.folder / name).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        self._send(content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body)

    def _send(self, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body and self.stuck is not None and self.path.endswith(".safetensors"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.stuck.set()
            with suppress(ConnectionResetError):
                self.rfile.read(1)  # until the client is gone
        elif body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    pytest.importorskip("huggingface_hub")
    folder = write_checkpoint(tmp_path / "repository")
    for name in ("modeling_molmo2.py", "pytorch_model.bin"):
        (folder / name).write_text("raise SystemExit")

    class Served(Hub):
        asked: list[str] = []  # noqa: RUF012 (one server, one list)

    Served.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Served
    server.shutdown()
    server.server_close()
    thread.join()


def command(address: str, home: Path, allowed: str) -> dict[str, Any]:
    """Arguments of a process that loads the checkpoint."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",  # the other tests set it
        "NO_PROXY": "*",
    }
    return {"args": [sys.executable, "-c", LOAD, NAME, allowed], "env": environment, "text": True}


def load(address: str, home: Path, allowed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(address, home, allowed), capture_output=True, check=False)


def test_a_hub_id(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    """Not without permission; then weights and JSON, no code, no pickle; then from the cache alone."""
    address, served = hub
    home = tmp_path / "home"
    refused = load(address, home, "no")
    assert refused.returncode != 0 and "hf download" in refused.stderr and not served.asked
    fetched = load(address, home, "yes")
    assert fetched.returncode == 0, fetched.stderr
    folder = Path(fetched.stdout.strip())
    assert folder.parent.parent == home / "hub" / "models--somebody--Molmo2-Tiny"
    wanted = {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json",
              "tokenizer_config.json"}  # fmt: skip
    assert {p.name for p in folder.iterdir()} == set(served.asked) == wanted
    assert (folder / "model.safetensors").read_bytes() == (served.folder / "model.safetensors").read_bytes()
    served.asked.clear()
    again = load(address, home, "no")
    assert again.stdout == fetched.stdout and not served.asked


def test_a_download_that_is_killed(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    """kill -9 half-way through the weights: what is there is not opened; the next try completes it."""
    address, served = hub
    home, served.stuck = tmp_path / "home", threading.Event()
    fetching = subprocess.Popen(
        **command(address, home, "yes"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert served.stuck.wait(120.0)
    fetching.kill()
    assert fetching.communicate()[0] == "" and fetching.returncode == -signal.SIGKILL
    served.stuck = None
    partial = load(address, home, "no")
    assert partial.returncode != 0 and "in part" in partial.stderr, partial.stderr
    assert "model.safetensors" in partial.stderr and f"hf download {NAME}" in partial.stderr
    fetched = load(address, home, "yes")
    assert fetched.returncode == 0, fetched.stderr
    weights = Path(fetched.stdout.strip()) / "model.safetensors"
    assert weights.read_bytes() == (served.folder / "model.safetensors").read_bytes()
    assert load(address, home, "no").stdout == fetched.stdout
