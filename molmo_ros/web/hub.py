"""The newest message of each kind, and its viewers. A source's threads put in, the server's loop takes
out."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from molmo_ros.as_json import to_plain

HISTORY = 50  # entries
KEPT = ("hello", "history")  # kept when the last viewer leaves
Message = str | bytes


class Hub:
    """Newest messages with a version each; every client knows which versions it has."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: dict[str, tuple[int, Message]] = {}
        self._version = 0
        self._wakers: dict[object, Callable[[], None]] = {}
        self._looks: dict[object, frozenset[str]] = {}
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)

    def tell(self, kind: str, content: dict[str, Any]) -> None:
        """A message in JSON, ``type`` = kind."""
        self.put(kind, json.dumps(to_plain({"type": kind, **content}), ensure_ascii=False))

    def put(self, kind: str, message: Message) -> None:
        """Replace the message of a kind and wake the clients."""
        with self._lock:
            self._version += 1
            self._messages[kind] = (self._version, message)
            wakers = list(self._wakers.values())
        for wake in wakers:
            wake()

    def forget(self) -> None:
        """Drop what was live: a page that opens later must not take it for new."""
        with self._lock:
            self._messages = {kind: self._messages[kind] for kind in KEPT if kind in self._messages}

    def drop(self, *kinds: str) -> None:
        """These messages are no longer valid; a page that opens later does not get them."""
        with self._lock:
            for kind in kinds:
                self._messages.pop(kind, None)

    def note(self, query: str, mode: str, result: str, ok: bool, ms: float | None = None) -> None:
        """A line of the history: what was asked, and the result."""
        with self._lock:
            when = time.strftime("%H:%M:%S")
            self._history.append(
                {"time": when, "query": query, "mode": mode, "result": result, "ok": ok, "ms": ms}
            )
            entries = list(self._history)
        self.tell("history", {"entries": entries})

    @property
    def noted(self) -> bool:
        """Whether the history has any line."""
        return bool(self._history)

    def newer(
        self, seen: dict[str, int], skip: frozenset[str] = frozenset()
    ) -> tuple[str, int, Message] | None:
        """(kind, version, message) that a client does not have yet; the one it has waited for longest."""
        with self._lock:
            waiting = [
                (seen.get(kind, 0), kind)
                for kind, (version, _) in self._messages.items()
                if version > seen.get(kind, 0) and kind not in skip
            ]
            if not waiting:
                return None
            kind = min(waiting)[1]
            return (kind, *self._messages[kind])

    def join(self, client: object, wake: Callable[[], None]) -> None:
        """A client is there; ``wake`` is called, from any thread, when something is new."""
        with self._lock:
            self._wakers[client] = wake

    def look(self, client: object, kinds: frozenset[str]) -> None:
        """Which binary kinds a client shows at the moment."""
        with self._lock:
            self._looks[client] = kinds

    def leave(self, client: object) -> None:
        """A client is gone."""
        with self._lock:
            self._wakers.pop(client, None)
            self._looks.pop(client, None)

    @property
    def clients(self) -> int:
        """How many are there."""
        return len(self._wakers)

    def watched(self, kind: str) -> bool:
        """Whether any page shows this kind; what nobody shows need not be encoded."""
        with self._lock:
            return any(kind in kinds for kinds in self._looks.values())
