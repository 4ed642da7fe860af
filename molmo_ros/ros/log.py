"""Forwards the core library's Python logging to the node's log."""

from __future__ import annotations

import logging

from rclpy.node import Node


class _ToNode(logging.Handler):
    def __init__(self, node: Node) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.name}: {self.format(record)}"  # with the stack trace, if there is one
        # One call per severity: rclpy insists that a line of code always logs with the same one.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def forward_logging(node: Node) -> None:
    """Send what ``molmo_ros`` logs to the node's logger."""
    logger = logging.getLogger("molmo_ros")
    logger.handlers = [_ToNode(node)]
    logger.propagate = False
    logger.setLevel(logging.INFO)
