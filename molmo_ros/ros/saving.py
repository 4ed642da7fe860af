"""Queries that the node saves to files (``save_dir``), in a separate thread, and the service ~/save."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Full, Queue
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from std_srvs.srv import Trigger

from molmo_ros.errors import MolmoRosError
from molmo_ros.recording.saved import AnsweredQuery, SavedQueries
from molmo_ros.ros.config import NodeConfig

WAITING = 2  # queries that wait to be written; more are left out
THROTTLE_S = 10.0  # a full disk is not reported more often


class Saving:
    """Writes queries as ``save_when`` says; the last one also when ~/save asks for it."""

    def __init__(self, node: Node, config: Callable[[], NodeConfig]) -> None:
        self._logger, self._config = node.get_logger(), config
        settings = config()
        self._saved = SavedQueries(settings.save_dir, settings.save_max_count, settings.save_max_mb)
        self._last: AnsweredQuery | None = None
        self._lock = threading.Lock()  # one at a time: the folder's bounds are checked before writing
        self._waiting: Queue[AnsweredQuery | None] = Queue(WAITING)
        self._thread: threading.Thread | None = None
        if settings.save_dir:
            self._thread = threading.Thread(target=self._write_all, name="saving", daemon=True)
            self._thread.start()
        group = MutuallyExclusiveCallbackGroup()  # writing takes a while
        node.create_service(Trigger, "~/save", self.on_save, callback_group=group)

    def note(self, query: AnsweredQuery) -> None:
        """The result of a query; never waits."""
        self._last = query
        when = self._config().save_when
        if self._thread is None or when == "never" or (when == "failed" and not query.failed):
            return
        try:
            self._waiting.put_nowait(query)
        except Full:
            self._logger.warning(
                f'"{query.query}" is not saved: writing to {self._saved.folder} is slower than the queries.',
                throttle_duration_sec=THROTTLE_S,
            )

    def on_save(self, _: Any, response: Any) -> Any:
        """std_srvs/Trigger: save the last query now, whatever its result."""
        response.success = False
        if self._thread is None:
            response.message = "There is no folder to save in; start the node with the parameter save_dir."
        elif (query := self._last) is None:
            response.message = "Nothing has been asked yet; ask ~/ground first."
        else:
            name, error = self._write(query)
            response.success = not error
            response.message = error or f"{self._saved.folder / name}"
        return response

    def close(self) -> None:
        """Write what waits, and end the thread."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()

    def _write_all(self) -> None:
        while (query := self._waiting.get()) is not None:
            self._write(query)

    def _write(self, query: AnsweredQuery) -> tuple[str, str]:
        """(name, "") or ("", what is wrong); a node that cannot save lives on."""
        try:
            with self._lock:
                name = self._saved.save(query)
        except MolmoRosError as error:
            self._logger.warning(f'"{query.query}" is not saved: {error}', throttle_duration_sec=THROTTLE_S)
            return "", str(error)
        except Exception as error:
            self._logger.error(f'"{query.query}" is not saved: {type(error).__name__}: {error}')
            return "", f"Internal error: {type(error).__name__}: {error}. The node's log has more."
        self._logger.info(f'"{query.query}" is saved: {self._saved.folder / name}_*')
        return name, ""
