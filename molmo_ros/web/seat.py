"""One page that is open: what it is sent, how fast, and what it asks for."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from molmo_ros.web.hub import Hub
from molmo_ros.web.source import Reply, Source, perform

BYTES_PER_S = 10e6  # to each page, at most
MAX_UNACKED = 3  # binary messages that a page has not shown yet; a slow page gets the newest, not all
BINARY = frozenset({"live", "answer_image", "scene", "object"})
MAX_REPLIES = 32  # that a page has not taken yet; it asks one thing at a time
BUSY = Reply(False, "This page's last request is not answered yet.", "BUSY")


class Pace:
    """Keeps a stream below a rate: after n bytes the next message waits n / rate seconds."""

    def __init__(self, bytes_per_s: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = bytes_per_s, clock
        self._free_at = 0.0

    def wait_s(self) -> float:
        """How long the next message has to wait."""
        return max(0.0, self._free_at - self._clock())

    def sent(self, size: int) -> None:
        """So many bytes have gone out."""
        self._free_at = max(self._free_at, self._clock()) + size / self._rate


class Seat:
    """Sends what is newest and takes requests, until the page closes."""

    def __init__(self, websocket: WebSocket, hub: Hub, source: Source, threads: Executor) -> None:
        self._socket, self._hub, self._source, self._threads = websocket, hub, source, threads
        self._wake = asyncio.Event()
        self._seen: dict[str, int] = {}
        self._shows: frozenset[str] = frozenset()
        self._unacked = 0
        self._replies: deque[str] = deque(maxlen=MAX_REPLIES)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._pace = Pace(BYTES_PER_S, asyncio.get_running_loop().time)

    def waker(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """What to call, from any thread, when there is something new."""

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._wake.set)

        return wake

    async def serve(self) -> None:
        """Send and receive until the page closes."""
        sending = asyncio.create_task(self._send_all())
        try:
            while True:
                self._take(await self._socket.receive_text())
        except (
            WebSocketDisconnect,
            KeyError,
            RuntimeError,
        ):  # KeyError: a binary message, which no page sends
            pass
        finally:
            for task in (sending, *self._running.values()):
                task.cancel()

    async def _send_all(self) -> None:
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while await self._send_one():
                pass

    async def _send_one(self) -> bool:
        """Send a reply, or the message that this page has waited for longest; False if there is none."""
        if (wait_s := self._pace.wait_s()) > 0:
            await asyncio.sleep(wait_s)
        if self._replies:
            await self._send(self._replies.popleft())
            return True
        skip = BINARY - (self._shows if self._unacked < MAX_UNACKED else frozenset())
        found = self._hub.newer(self._seen, skip)
        if found is None:
            return False
        kind, self._seen[kind], message = found
        if isinstance(message, bytes):
            self._unacked += 1
        await self._send(message)
        return True

    async def _send(self, message: str | bytes) -> None:
        size = len(message)
        if isinstance(message, bytes):
            await self._socket.send_bytes(message)
        else:
            await self._socket.send_text(message)
        self._pace.sent(size)

    def _take(self, text: str) -> None:
        """One message of the page; nonsense is ignored."""
        try:
            message = json.loads(text)
            kind = str(message["type"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if kind == "ack":
            self._unacked = max(0, self._unacked - 1)
            self._wake.set()
        elif kind == "shows":
            kinds = message.get("kinds")
            named = [k for k in kinds if isinstance(k, str)] if isinstance(kinds, list) else []
            self._shows = BINARY.intersection(named)
            self._hub.look(self, self._shows)
            self._wake.set()
        elif kind == "request":
            self._begin(message)

    def _begin(self, message: dict[str, Any]) -> None:
        """Perform a request in a thread; one at a time, except for a track, which ``cancel`` has to reach."""
        action, text = str(message.get("action", "")), str(message.get("text", ""))
        number = message.get("number")
        lane = action if action in ("track", "cancel") else "request"
        task = self._running.get(lane)
        if task is not None and not task.done():
            self._reply(number, action, BUSY)
            return
        self._running[lane] = asyncio.create_task(self._perform(number, action, text))

    async def _perform(self, number: object, action: str, text: str) -> None:
        loop = asyncio.get_running_loop()
        reply = await loop.run_in_executor(self._threads, perform, self._source, action, text)
        self._reply(number, action, reply)

    def _reply(self, number: object, action: str, reply: Reply) -> None:
        safe = number if isinstance(number, int) else 0
        content = {"type": "reply", "number": safe, "action": action, **reply.keys()}
        self._replies.append(json.dumps(content, ensure_ascii=False))
        self._wake.set()
