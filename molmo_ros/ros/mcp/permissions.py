"""What an agent may do: a YAML file that a person writes (docs/mcp.md)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmo_ros.errors import BusyError, NotPermittedError, ParameterError
from molmo_ros.untrusted import read_yaml

TOOLS = ("ground", "ask", "track", "look")
MAX_QUERIES_PER_MINUTE, MAX_TRACKS, MAX_TRACK_S = 600, 8, 3600.0


@dataclass(frozen=True)
class Permissions:
    """tools: which may be called; cameras: which may be used, by name (None: all of the node).

    queries_per_minute: of all tools and clients together; max_tracks: that run at a time; max_track_s: time
    after which a track ends by itself.
    """

    tools: tuple[str, ...] = TOOLS
    cameras: tuple[str, ...] | None = None
    queries_per_minute: int = 30
    max_tracks: int = 1
    max_track_s: float = 60.0

    @staticmethod
    def load(path: str | Path) -> Permissions:
        """Raises: ParameterError naming the file and the entry that is wrong."""
        try:
            content = read_yaml(Path(path))
        except (OSError, ValueError) as error:
            raise ParameterError(
                f"{path} cannot be read ({error}); give a YAML file of permissions."
            ) from error
        return parse_permissions({} if content is None else content, str(path))

    def check_tool(self, tool: str) -> None:
        """Raises: NotPermittedError."""
        if tool not in self.tools:
            raise NotPermittedError(
                f"The tool {tool!r} is not permitted; permitted: {', '.join(self.tools)}."
            )

    def check_camera(self, camera: str) -> str:
        """The camera to use; empty: the first that is permitted. Raises: NotPermittedError."""
        if self.cameras is None:
            return camera
        if not camera:
            return self.cameras[0]
        if camera not in self.cameras:
            raise NotPermittedError(
                f"The camera {camera!r:.80} is not permitted; permitted: {', '.join(self.cameras)}."
            )
        return camera


def parse_permissions(content: Any, where: str) -> Permissions:
    """Raises: ParameterError naming the entry that is wrong. What is left out keeps its default."""
    known = Permissions.__dataclass_fields__
    if not isinstance(content, dict) or not set(content) <= set(known):
        raise ParameterError(f"{where}: give a record with some of {', '.join(known)}.")
    values: dict[str, Any] = {}
    if "tools" in content:
        values["tools"] = _names(content["tools"], f"{where}: tools")
        if wrong := set(values["tools"]) - set(TOOLS):
            raise ParameterError(
                f"{where}: there is no tool {sorted(wrong)[0]!r}; choose from {', '.join(TOOLS)}."
            )
    if content.get("cameras") is not None:
        values["cameras"] = _names(content["cameras"], f"{where}: cameras")
    limits = {
        "queries_per_minute": MAX_QUERIES_PER_MINUTE,
        "max_tracks": MAX_TRACKS,
        "max_track_s": MAX_TRACK_S,
    }
    for name, most in limits.items():
        if name in content:
            values[name] = _number(content[name], most, f"{where}: {name}", whole=name != "max_track_s")
    return Permissions(**values)


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
        raise ParameterError(f"{where} is {value!r:.80}; give a list of names, or leave it out for all.")
    return tuple(dict.fromkeys(value))


def _number(value: Any, most: float, where: str, *, whole: bool) -> Any:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= most:
        raise ParameterError(f"{where} is {value!r:.80}; give a number above 0, at most {most:g}.")
    return value


class Rate:
    """A limit on the queries in any minute; thread-safe."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = per_minute, clock
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def take(self) -> None:
        """Count one query. Raises: BusyError with the wait if it is one too many; that one does not count."""
        with self._lock:
            now = self._clock()
            while self._times and now - self._times[0] >= 60.0:
                self._times.popleft()
            if len(self._times) >= self._most:
                wait = 60.0 - (now - self._times[0])
                raise BusyError(f"{self._most} queries a minute are permitted; ask again in {wait:.0f} s.")
            self._times.append(now)
