"""Serve the page until Ctrl-C."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
from collections.abc import Callable

from molmo_ros.errors import ParameterError
from molmo_ros.web.access import Access, is_loopback
from molmo_ros.web.source import Source

TOKEN_ENV = "MOLMO_ROS_WEB_TOKEN"
MIN_TOKEN = 16  # characters of a token that somebody has chosen
MAX_MESSAGE = 65536  # bytes; what a page sends is short


def serve(source: Source, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. say: called once with the URL to open.

    Raises: ParameterError if the address cannot be used.
    """
    import uvicorn

    from molmo_ros.web.app import make_app
    from molmo_ros.web.hub import Hub

    with listen(host, port) as listening:
        access = Access(host, listening.getsockname()[1], token_for(host, os.environ.get(TOKEN_ENV, "")))
        config = uvicorn.Config(
            make_app(Hub(), source, access),
            log_level="warning",
            access_log=False,  # it would log the token
            proxy_headers=False,  # nobody may pretend to be somebody else
            server_header=False,
            ws_max_size=MAX_MESSAGE,
            ws_per_message_deflate=False,  # JPEG and quantised clouds do not get smaller
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
        say(f"web view of {source.name}: {access.url}")
        # uvicorn re-sends the signal that ended it to the previous handler.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        finally:
            source.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0: any free one. Raises: ParameterError saying why not."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ParameterError(
            f"Cannot serve on {host!r}: {error.strerror}; give an address of this machine."
        ) from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise ParameterError(
            f"Cannot serve on {host}:{port}: {error.strerror}; give another port (--port, web_port), or 0 "
            "for any that is free."
        ) from error
    return listening


def token_for(host: str, chosen: str) -> str:
    """The token that a page served on host needs: none on this machine alone, else chosen or a new one.

    Raises: ParameterError if the chosen one is too short to be a secret.
    """
    if chosen and re.fullmatch(rf"[A-Za-z0-9_-]{{{MIN_TOKEN},128}}", chosen) is None:
        raise ParameterError(
            f"{TOKEN_ENV} is no good token; give {MIN_TOKEN} to 128 letters and digits, or unset it for "
            "a new one."
        )
    return chosen or ("" if is_loopback(host) else secrets.token_urlsafe(24))
