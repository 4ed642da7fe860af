"""HTTP as a robot needs it: every request has a deadline, can be cancelled at any moment, and is retried
where that helps.

The standard library's client, since a request here is one POST and a robot then needs no package for it. It
blocks, so it runs in its own thread, and the caller watches the clock meanwhile. No redirects are followed
and no proxy is used: the key goes to the address that was given, and nowhere else.
"""

from __future__ import annotations

import http.client
import logging
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from molmo_ros.datatypes import ShouldStop
from molmo_ros.errors import CancelledError, ParameterError, ServerError
from molmo_ros.runtimes.remote.breaker import CircuitBreaker

log = logging.getLogger(__name__)

LOCAL = ("localhost", "127.0.0.1", "::1")
POLL_S = 0.02
CONNECT_S = 5.0
BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 8.0
MAX_LINE_BYTES, MAX_BODY_BYTES, MAX_ERROR_BYTES = 1 << 20, 1 << 24, 1 << 14
RETRIABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
FIXES = {
    401: "give the key in the environment variable that remote_key_env names",
    403: "give a key that may use this model",
    404: "check remote_url (it ends in /v1) and remote_model",
    413: "set remote_image to jpeg",
    429: "let fewer robots share the server, or raise its limits",
}

T = TypeVar("T")


@dataclass
class Server:
    """One server. ``key`` is its bearer token, and never shown: it is removed from the server's texts."""

    url: str
    timeout_s: float
    retries: int
    key: str = field(default="", repr=False)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    def __post_init__(self) -> None:
        self._parts = check_url(self.url)
        if self.key and not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise ParameterError("The server's key holds spaces or characters that no key has; set it again.")
        if self.key and self._parts.scheme == "http" and self._parts.hostname not in LOCAL:
            log.warning("The key for %s travels unencrypted; use https.", self._address)

    def call(self, attempt: Callable[[], T], should_stop: ShouldStop) -> T:
        """The result of ``attempt``, made up to 1 + retries times, with growing pauses and random jitter.

        Raises: ServerError as soon as asking again does not help or the circuit is open; CancelledError.
        """
        for i in range(self.retries + 1):
            self.breaker.enter()
            try:
                result = attempt()
            except ServerError as error:
                self._note(error)
                pause_s = error.retry_after_s
                if pause_s is None:
                    pause_s = random.uniform(0.5, 1.0) * min(BACKOFF_S * 2**i, LONGEST_BACKOFF_S)
                last = i == self.retries or self.breaker.state == "open" or pause_s > self.timeout_s
                if not error.retriable or last:
                    raise
            except BaseException:
                self.breaker.leave()
                raise
            else:
                self.breaker.succeed()
                return result
            _pause(pause_s, should_stop)
        raise AssertionError("the last attempt returns or raises")

    def _note(self, error: ServerError) -> None:
        """A server that refuses, or asks for patience, is not down."""
        if error.retriable and error.retry_after_s is None:
            self.breaker.fail(str(error))
        else:
            self.breaker.succeed()

    def lines(self, method: str, path: str, body: bytes, should_stop: ShouldStop) -> Iterator[bytes]:
        """The lines of the answer, as they come; closing the generator closes the connection.

        Raises: ServerError, CancelledError.
        """
        give_up = time.monotonic() + self.timeout_s
        exchange = _Exchange(self._parts, method, path, body, self._headers(), self.timeout_s)
        threading.Thread(target=exchange.run, name="http", daemon=True).start()
        try:
            while True:
                if should_stop():
                    raise CancelledError("The query was cancelled before the server had answered; ask again.")
                if time.monotonic() > give_up:
                    raise self._failure(f"has not answered within {self.timeout_s:g} s")
                try:
                    item = exchange.items.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                if item is None:
                    return
                if not isinstance(item, bytes):
                    raise self._error(item)
                yield item
        finally:
            exchange.abort()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        return {**headers, "Authorization": f"Bearer {self.key}"} if self.key else headers

    def _error(self, cause: Exception) -> ServerError:
        if isinstance(cause, _StatusError):
            return self._refusal(cause)
        if isinstance(cause, ConnectionRefusedError):
            return self._failure("is not there (connection refused)")
        if isinstance(cause, socket.gaierror):
            return self._failure("cannot be found by that name")
        if isinstance(cause, TimeoutError):
            return self._failure("does not answer")
        return self._failure(f"broke the connection off ({type(cause).__name__}: {self.clean(str(cause))})")

    def _failure(self, what: str) -> ServerError:
        return ServerError(
            f"The server {self._address} {what}; start it, check the network and remote_url.", retriable=True
        )

    def _refusal(self, cause: _StatusError) -> ServerError:
        fix = FIXES.get(cause.status, "its log has more")
        text = self.clean(cause.body.decode("utf-8", "replace")) or cause.reason
        return ServerError(
            f"The server {self._address} says {cause.status}: {text}; {fix}.",
            retriable=cause.status in RETRIABLE,
            retry_after_s=_seconds(cause.retry_after),
        )

    def clean(self, text: str, most: int = 200) -> str:
        """A text of the server in one short line, without the key."""
        hidden = text.replace(self.key, "***") if self.key else text
        line = " ".join("".join(c if c.isprintable() else " " for c in hidden).split())
        return line if len(line) <= most else line[:most] + "..."

    @property
    def _address(self) -> str:
        return self._parts.netloc


class _StatusError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, reason: str, retry_after: str, body: bytes) -> None:
        super().__init__(status)
        self.status, self.reason, self.retry_after, self.body = status, reason, retry_after, body


class _Exchange:
    """One request in a thread; lines, then None or an exception come out of ``items``."""

    def __init__(
        self, url: SplitResult, method: str, path: str, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> None:
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(url.hostname or "", url.port, timeout=min(CONNECT_S, timeout_s))
        self._request = (method, url.path + path, body or None, headers)
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._aborted = False
        self.items: queue.Queue[bytes | Exception | None] = queue.Queue()

    def run(self) -> None:
        try:
            self._exchange()
            self.items.put(None)
        except Exception as error:
            self.items.put(error)
        finally:
            self._connection.close()

    def _exchange(self) -> None:
        self._connection.connect()
        self._socket = self._connection.sock  # the connection drops it while the answer is still being read
        self._socket.settimeout(self._timeout_s + 1.0)  # the caller gives up first, and says so
        if self._aborted:
            return
        self._connection.request(*self._request)
        response = self._connection.getresponse()
        if response.status != http.client.OK:
            after = response.headers.get("Retry-After", "")
            raise _StatusError(response.status, response.reason, after, response.read(MAX_ERROR_BYTES))
        read = 0
        while line := response.readline(MAX_LINE_BYTES):
            read += len(line)
            if read > MAX_BODY_BYTES:
                raise http.client.HTTPException(f"more than {MAX_BODY_BYTES >> 20} MB")
            self.items.put(line)

    def abort(self) -> None:
        """Abort the request, whatever it is waiting for, so that the server stops working on it too."""
        self._aborted = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def check_url(url: str) -> SplitResult:
    """The parts of a server's address, with the path /v1 if none is given. Raises: ParameterError."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise ParameterError(f"remote_url is no address ({error}); give http://HOST:PORT/v1.") from error
    if parts.username or parts.password:
        raise ParameterError("remote_url holds a name or a password; give the key by remote_key_env.")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ParameterError(f"remote_url is {url[:80]!r}, port {port}; give http://HOST:PORT/v1.")
    return parts._replace(path=parts.path.rstrip("/") or "/v1")


def _seconds(retry_after: str) -> float | None:
    """The header Retry-After: seconds, or a date (RFC 9110); None if there is none that can be read."""
    with suppress(ValueError, TypeError):
        if retry_after.strip().isdigit():
            return float(retry_after)
        return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    return None


def _pause(seconds: float, should_stop: ShouldStop) -> None:
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        if should_stop():
            raise CancelledError("The query was cancelled while the server was given time; ask again.")
        time.sleep(min(rest, POLL_S))
