"""Who has access: Host and Origin of every request, a token beyond this machine, a Content-Security-Policy.

A page that commands a robot is a target. A web site that the user visits can make the browser send requests
here, even under its own host name, pointed at this machine (DNS rebinding). Hence:

1. Host must be an address or a name of this machine; a foreign name pointed here is not.
2. Origin, which browsers send with every WebSocket, must be this page itself.
3. Served beyond this machine, nothing answers without the token; it comes once in the URL, then as a cookie
   that scripts cannot read and other sites do not send (HttpOnly, SameSite=Strict).
4. The page runs no script, style or connection but its own (Content-Security-Policy).
"""

from __future__ import annotations

import hmac
import ipaddress
import platform
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "molmo_ros_token"
FORBIDDEN, UNAUTHORIZED = 403, 401
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-cache",
}


@dataclass(frozen=True)
class Access:
    """Where the page is served, and the token that it requires; '' only on a loopback address."""

    host: str
    port: int
    token: str = ""

    @property
    def url(self) -> str:
        """What to open in a browser."""
        host = platform.node() if is_any(self.host) else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this machine. A literal address cannot have been pointed here by
        DNS."""
        name, port = split_host(host)
        if port != self.port:
            return False
        if is_loopback(self.host):
            return name == "localhost" or is_loopback(name)
        own = platform.node().lower()
        return _is_address(name) or name in (
            self.host.lower(),
            own,
            f"{own.split('.')[0]}.local",
            "localhost",
        )

    def knows_token(self, given: str) -> bool:
        """Compared in constant time."""
        return not self.token or hmac.compare_digest(given.encode(), self.token.encode())


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_any(host: str) -> bool:
    """Whether it stands for all addresses of this machine."""
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified


def split_host(host: str) -> tuple[str, int]:
    """Name and port of a Host header, 80 if it has none; ("", 0) if it is nonsense."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = host, "80"
    if not port.isascii() or not port.isdigit() or len(port) > 5:
        return "", 0
    return name.removeprefix("[").removesuffix("]").lower(), int(port)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Guarded:
    """Middleware: lets through what Access allows, and puts HEADERS on every response."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        status, why = self._verdict(scope)
        if scope["type"] == "websocket":
            if status:
                # before it is accepted: the server answers with HTTP 403
                await send({"type": "websocket.close", "code": 1008, "reason": why})
            else:
                await self._app(scope, receive, send)
            return
        app: ASGIApp = self._app
        if status:
            app = PlainTextResponse(why + "\n", status)
        elif self._access.token and (given := _query_token(HTTPConnection(scope))):
            app = self._with_cookie(scope["path"], given)
        await app(scope, receive, _with_headers(send))

    def _verdict(self, scope: Scope) -> tuple[int, str]:
        """(0, "") or the HTTP status and why."""
        connection = HTTPConnection(scope)
        headers = connection.headers
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._access.knows_host(host):
            return FORBIDDEN, f"Host {host[:100]!r} is not served here; open {self._access.url.split('?')[0]}"
        if origin is not None and origin.lower() != f"http://{host}".lower():
            return FORBIDDEN, f"Origin {origin[:100]!r} is another page than this one."
        if scope["type"] == "websocket" and origin is None:
            return FORBIDDEN, "A WebSocket needs an Origin; browsers send one."
        token = _query_token(connection) or connection.cookies.get(self._cookie, "")
        if not self._access.knows_token(token):
            return UNAUTHORIZED, "Open the address with the token that the server has printed."
        return 0, ""

    @property
    def _cookie(self) -> str:
        """Cookies do not distinguish ports, so the name does."""
        return f"{COOKIE}_{self._access.port}"

    def _with_cookie(self, path: str, token: str) -> ASGIApp:
        """The token moves from the address, which others may see, to a cookie."""
        response = RedirectResponse(path if path.startswith("/") and not path.startswith("//") else "/", 303)
        response.set_cookie(self._cookie, token, httponly=True, samesite="strict", path="/")
        return response


def _query_token(connection: HTTPConnection) -> str:
    return connection.query_params.get("token", "")


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return wrapped
