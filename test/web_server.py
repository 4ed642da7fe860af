"""A web view in this process, and a client like the page's: what the tests of the web view share."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import uvicorn
from websockets.sync.client import ClientConnection, connect

from molmo_ros.web.access import Access
from molmo_ros.web.app import make_app
from molmo_ros.web.hub import Hub
from molmo_ros.web.seat import BINARY
from molmo_ros.web.serve import listen
from molmo_ros.web.source import Source
from molmo_ros.web.wire import unpack


@contextmanager
def served(
    source: Source, port: int = 0, token: str = "", host: str = "127.0.0.1"
) -> Iterator[tuple[Access, Hub]]:
    """Serve until the block ends."""
    listening = listen(host, port)
    access, hub = Access(host, listening.getsockname()[1], token), Hub()
    config = uvicorn.Config(
        make_app(hub, source, access),
        log_level="warning",
        ws_per_message_deflate=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    deadline = time.monotonic() + 20.0
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield access, hub
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        source.close()


class Page:
    """Receives as the page does, and keeps the newest message of each kind."""

    def __init__(
        self, access: Access, shows: list[str] | None = None, acks: bool = True, **options: Any
    ) -> None:
        origin = options.pop("origin", f"http://127.0.0.1:{access.port}")
        url = f"ws://127.0.0.1:{access.port}/ws"
        self._stack = ExitStack()  # websockets wants its connections closed
        self.socket: ClientConnection = self._stack.enter_context(
            connect(url, origin=origin, max_size=None, **options)
        )
        self._acks, self._number = acks, 0
        self.newest: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        self.bytes = 0
        self.send({"type": "shows", "kinds": sorted(BINARY) if shows is None else shows})

    def send(self, message: dict[str, Any]) -> None:
        self.socket.send(json.dumps(message))

    def receive(self, timeout_s: float) -> str | None:
        """Take one message; its kind, or None if none came."""
        try:
            data = self.socket.recv(timeout_s)
        except TimeoutError:
            return None
        self.bytes += len(data)
        if isinstance(data, bytes):
            header, payload = unpack(data)
            kind, content = header["kind"], (header, payload)
            if self._acks:
                self.send({"type": "ack"})
        else:
            content = json.loads(data)
            kind = content["type"]
        self.newest[kind] = content
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return str(kind)

    def until(self, kind: str, accept: Any = lambda content: True, timeout_s: float = 30.0) -> Any:
        """The next message of a kind that is accepted."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.receive(0.1) == kind and accept(self.newest[kind]):
                return self.newest[kind]
        raise AssertionError(f"no {kind} came in {timeout_s} s; had {self.counts}")

    def has(self, kind: str, accept: Any = lambda content: True, timeout_s: float = 30.0) -> Any:
        """The newest message of a kind once it is accepted; it may have come before."""
        if kind in self.newest and accept(self.newest[kind]):
            return self.newest[kind]
        return self.until(kind, accept, timeout_s)

    def request(self, action: str, text: str = "", timeout_s: float = 60.0) -> dict[str, Any]:
        """Ask as the page does, and wait for the reply."""
        self._number += 1
        number = self._number
        self.send({"type": "request", "number": number, "action": action, "text": text})
        reply: dict[str, Any] = self.until("reply", lambda reply: reply["number"] == number, timeout_s)
        return reply

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
