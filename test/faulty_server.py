"""A server that fails in every way it can, and the client of the runtime "remote" for it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from molmo_ros.runtimes.remote.remote import RemoteMolmo, RemoteOptions

ONE = '<points coords="1 1 500 500">can</points>'
Handler = BaseHTTPRequestHandler
Act = Callable[[Handler], None]


@dataclass
class Faulty:
    """A real HTTP server; ``acts``: what it does with successive requests; the last act repeats."""

    acts: list[Act] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    broken: threading.Event = field(default_factory=threading.Event)  # the client has gone away
    url: str = ""

    def take(self, handler: Handler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        self.bodies.append(json.loads(handler.rfile.read(length) or b"{}"))
        self.headers.append(handler.headers)
        self.times.append(time.monotonic())
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        try:
            act(handler)
        except OSError:
            self.broken.set()


@contextmanager
def faulty_server() -> Iterator[Faulty]:
    shared = Faulty()

    class One(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            shared.take(self)

        def do_GET(self) -> None:
            shared.take(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), One)
    shared.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield shared
    finally:
        server.shutdown()
        server.server_close()


def status(code: int, body: str = "", **headers: str) -> Act:
    def act(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body.encode())

    return act


def events(*parts: str, finish: str | None = "stop", pause_s: float = 0.0, logprobs: Any = None) -> Act:
    """A stream of these pieces of text; ``finish`` None: it ends half way."""

    def act(handler: Handler) -> None:
        status(200, Content_Type="text/event-stream")(handler)
        for part in parts:
            choice = {"index": 0, "delta": {"content": part}, "logprobs": logprobs and logprobs(part)}
            handler.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            time.sleep(pause_s)
        if finish:
            end = {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
            handler.wfile.write(f": comment\n\ndata: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode())

    return act


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def silence(handler: Handler) -> None:
    """Until the client has gone away."""
    handler.connection.settimeout(10.0)
    if not handler.connection.recv(1):
        raise ConnectionError


def drip(handler: Handler) -> None:
    """One byte of a line that never ends, for as long as the client stays."""
    status(200)(handler)
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.02)


def remote(faulty: Faulty, **options: Any) -> RemoteMolmo:
    return RemoteMolmo(RemoteOptions(**{"url": faulty.url, "model": "m", "timeout_s": 5.0, **options}))
