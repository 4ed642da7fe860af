"""A streamed answer of a chat server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from molmo_ros.datatypes import ShouldStop
from molmo_ros.errors import ServerError
from molmo_ros.runtimes.remote.chat import Reply
from molmo_ros.runtimes.remote.server import Server


def read_reply(server: Server, data: bytes, done: Callable[[str], bool], should_stop: ShouldStop) -> Reply:
    """One request with the body ``data``; stops reading when ``done`` says so of the text.

    Raises: ServerError, CancelledError.
    """
    reply = Reply(time.perf_counter())
    rest = b""  # for a server that does not stream: one JSON document
    for line in server.lines("POST", "/chat/completions", data, should_stop):
        if not line.startswith(b"data:"):
            rest += line
            continue
        content = line[5:].strip()
        if content == b"[DONE]":
            reply.finish = reply.finish or "stop"
            break
        reply.take(_json(server, content), "delta")
        if done(reply.text):
            reply.finish = "done"
            break
    if not reply.events and rest.strip():
        reply.take(_json(server, rest), "message")
    if not reply.finish:
        raise ServerError(
            f"The server ended its answer half way, after {reply.text[:60]!r}; its log may tell why.",
            retriable=True,
        )
    return reply


def _json(server: Server, text: bytes) -> dict[str, Any]:
    shown = server.clean(text[:300].decode("utf-8", "replace"), 120)
    try:
        event = json.loads(text)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise ServerError(f"The server answers what is no JSON object: {shown}; check remote_url.")
    if "error" in event:
        raise ServerError(f"The server failed: {shown}; its log has more.", retriable=True)
    if not isinstance(event.get("choices"), list):
        raise ServerError(f"The server's answer has no choices: {shown}; check remote_url.")
    return event
