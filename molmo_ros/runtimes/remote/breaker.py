"""Stop asking a server that is down: closed while all is well, open after failures in a row, then half-open,
which lets one request through to see whether it is back.

Source: M. Nygard, Release It!, 2007, "Circuit Breaker".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from molmo_ros.errors import ServerError


class CircuitBreaker:
    """Safe to use from several threads. ``most`` failures in a row open it for ``wait_s``, doubled each time
    that a probe fails, up to ``longest_s``.
    """

    def __init__(
        self,
        most: int = 3,
        wait_s: float = 1.0,
        longest_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._first_wait_s, self._longest_s, self._clock = most, wait_s, longest_s, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._wait_s = wait_s
        self._open_until = 0.0
        self._probing = False
        self._reason = ""

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        if self._failures < self._most:
            return "closed"
        return "open" if self._clock() < self._open_until else "half-open"

    def enter(self) -> None:
        """Ask before each request; `succeed`, `fail` or `leave` must follow. Raises: ServerError if open."""
        with self._lock:
            if self.state == "closed":
                return
            rest_s = self._open_until - self._clock()
            if rest_s > 0 or self._probing:
                raise ServerError(
                    f"The server failed {self._failures} times in a row ({self._reason}), and is left alone "
                    f"for {max(rest_s, 0.1):.1f} s more; check it, and ask again then."
                )
            self._probing = True

    def succeed(self) -> None:
        """The server has answered, if only with a refusal."""
        with self._lock:
            self._failures, self._wait_s, self._probing = 0, self._first_wait_s, False

    def fail(self, reason: str) -> None:
        """The server did not answer."""
        with self._lock:
            self._failures += 1
            self._reason = reason
            if self._failures >= self._most:
                self._open_until = self._clock() + self._wait_s
                self._wait_s = min(2 * self._wait_s, self._longest_s)
            self._probing = False

    def leave(self) -> None:
        """The request was given up before it said anything about the server."""
        with self._lock:
            self._probing = False
