"""Whose turn it is among clients that ask a worker for more than it can do. Knows no ROS."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol, TypeVar

MOST_CLIENTS = 1000  # that are remembered; the oldest are dropped


class _HasClient(Protocol):
    client: str


J = TypeVar("J", bound=_HasClient)


class Turns:
    """Remembers who was served when, and who was refused; the caller holds a lock."""

    def __init__(self) -> None:
        self._served: dict[str, int] = {}  # client -> when its last job began, counted in jobs
        self._refused: dict[str, float] = {}  # client -> how long its place is kept; in order
        self._count = 0

    def before(self, client: str) -> int:
        """How many clients were refused before this one and may still return."""
        now = time.monotonic()
        self._refused = {name: until for name, until in self._refused.items() if until > now}
        names = list(self._refused)
        return names.index(client) if client in self._refused else len(names)

    def refuse(self, client: str, seconds: float) -> None:
        """Keep a place for a client; one that has a place already keeps its rank."""
        if client in self._refused or len(self._refused) < MOST_CLIENTS:
            self._refused[client] = time.monotonic() + seconds

    def admit(self, client: str) -> None:
        """A client got into the queue."""
        self._refused.pop(client, None)

    def choose(self, waiting: Iterable[J]) -> J:
        """The job whose client was served longest ago; of one client, the first."""
        job = min(waiting, key=lambda one: self._served.get(one.client, 0))
        self._count += 1
        self._served.pop(job.client, None)
        self._served[job.client] = self._count
        if len(self._served) > MOST_CLIENTS:
            self._served.pop(next(iter(self._served)))
        return job
