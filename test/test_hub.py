"""Hub ids: fetched by the real client from a server on this machine, and only when that is allowed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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
        if body:
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


def test_a_hub_id(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    """Not without permission; then weights and JSON, no code, no pickle; then from the cache alone."""
    address, served = hub
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",  # the other tests set it
        "NO_PROXY": "*",
    }

    def load(allowed: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LOAD, NAME, allowed]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    refused = load("no")
    assert refused.returncode != 0 and "hf download" in refused.stderr and not served.asked
    fetched = load("yes")
    assert fetched.returncode == 0, fetched.stderr
    folder = Path(fetched.stdout.strip())
    assert folder.parent.parent == tmp_path / "home" / "hub" / "models--somebody--Molmo2-Tiny"
    wanted = {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json",
              "tokenizer_config.json"}  # fmt: skip
    assert {p.name for p in folder.iterdir()} == set(served.asked) == wanted
    assert (folder / "model.safetensors").read_bytes() == (served.folder / "model.safetensors").read_bytes()
    served.asked.clear()
    again = load("no")
    assert again.stdout == fetched.stdout and not served.asked
