"""What a source of the web view can do: look at something while somebody watches, and answer requests."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from molmo_ros.errors import MolmoRosError, ParameterError
from molmo_ros.web.hub import Hub

MAX_CHARS = 1024  # of a request's text; the node's own limit is lower and tells why


@dataclass(frozen=True)
class Reply:
    """The result of a request; code and message as in srv/Ground."""

    success: bool
    message: str
    code: str = ""
    answer: str = ""

    def keys(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Source(Protocol):
    """Fills a hub between ``open`` and ``close``. Requests block, and come from several threads."""

    name: str  # of what is shown: "/molmo", or a path
    live: bool  # a running node; else a recording, which can be stepped through

    def open(self, hub: Hub) -> None:
        """A page is open."""

    def close(self) -> None:
        """No page is open any more."""

    def ground(self, query: str) -> Reply:
        """Where is it, and how to grasp it."""

    def ask(self, question: str) -> Reply:
        """A free question."""

    def track(self, query: str) -> Reply:
        """Find and follow; returns when it ends."""

    def cancel(self) -> Reply:
        """End the track that ``track`` began."""

    def save(self) -> Reply:
        """Save the last query (~/save)."""

    def show(self, camera: str) -> Reply:
        """Of a node with several cameras: show this one, and ask about it."""

    def move(self, to: str) -> Reply:
        """Of a recording: "first", "previous", "next", "play" or "pause"."""


def perform(source: Source, action: str, text: str) -> Reply:
    """Do what a page asks for. Never raises: what is wrong is in the reply."""
    try:
        if len(text) > MAX_CHARS:
            raise ParameterError(f"The text has {len(text)} characters; give at most {MAX_CHARS}.")
        if action in ("ground", "ask", "track", "move", "show"):
            reply: Reply = getattr(source, action)(text)
            return reply
        if action in ("cancel", "save"):
            return source.cancel() if action == "cancel" else source.save()
        raise ParameterError(f"There is no request {action[:32]!r}.")
    except MolmoRosError as error:
        return Reply(False, str(error), error.code)
    except Exception as error:
        return Reply(False, f"Internal error: {type(error).__name__}: {error}", "ERROR")
