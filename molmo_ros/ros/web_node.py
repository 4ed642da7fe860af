"""The web view of a running node: its topics go to the page, and the page's requests to its services.

There is a ROS node, with subscriptions, only while a page is open.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import rclpy
from ament_index_python.packages import get_package_share_directory
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from molmo_ros.errors import NotReadyError, ParameterError
from molmo_ros.packages import missing_package
from molmo_ros.ros.bringup import fastdds_profile
from molmo_ros.ros.web_session import Session
from molmo_ros.web import HOST, PORT
from molmo_ros.web.hub import Hub
from molmo_ros.web.serve import serve
from molmo_ros.web.source import Reply

MISTAKE = 2


class NodeSource:
    """`web.source.Source` of a running node of this name."""

    live = True

    def __init__(self, name: str = "/molmo") -> None:
        self.name = "/" + name.strip("/")
        self._lock = threading.Lock()
        self._session: Session | None = None

    def open(self, hub: Hub) -> None:
        """A page is open: join ROS."""
        with self._lock:
            self._session = Session(self.name, hub)

    def close(self) -> None:
        """No page is open: leave ROS."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def ground(self, query: str) -> Reply:
        """~/ground."""
        here = self._here()
        return here.requests.ground(query, here.camera_name)

    def ask(self, question: str) -> Reply:
        """~/ask."""
        here = self._here()
        return here.requests.ask(question, here.camera_name)

    def track(self, query: str) -> Reply:
        """~/track, until it ends."""
        here = self._here()
        return here.requests.track(query, here.camera_name)

    def cancel(self) -> Reply:
        """Cancel the track."""
        return self._here().requests.cancel()

    def save(self) -> Reply:
        """~/save."""
        return self._here().requests.save()

    def show(self, camera: str) -> Reply:
        """Show this camera, and ask about it."""
        self._here().show(camera)
        return Reply(True, "")

    def move(self, to: str) -> Reply:
        """Only recordings can be stepped through."""
        raise ParameterError(f"A camera cannot go {to!r}; show a recording: molmo-ros view --bag, --frames.")

    def _here(self) -> Session:
        session = self._session
        if session is None:
            raise NotReadyError("The web view is closing; load the page again.")
        return session


def view(name: str, host: str, port: int) -> None:
    """Serve the view of a node until Ctrl-C. Raises: ParameterError if the address cannot be used."""
    with suppress(LookupError):  # the package is not installed, as in a source tree
        os.environ.update(fastdds_profile(Path(get_package_share_directory("molmo_ros")), os.environ))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # the server ends by itself
    try:
        serve(NodeSource(name), host, port, lambda text: print(text, file=sys.stderr, flush=True))
    finally:
        rclpy.try_shutdown()


def main(args: Sequence[str] | None = None) -> int:
    """What the launch files start. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="web_node", description=__doc__)
    parser.add_argument("--node", default="/molmo", help="full name of the node to show (default /molmo)")
    parser.add_argument("--host", default=HOST, help=f"address to serve on (default {HOST})")
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}")
    given = parser.parse_args(remove_ros_args(list(sys.argv if args is None else args))[1:])
    try:
        view(given.node, given.host, given.port)
    except ParameterError as error:
        print(f"web_node: {error}", file=sys.stderr)
        return MISTAKE
    except ModuleNotFoundError as error:
        print(f"web_node: {missing_package(error)}", file=sys.stderr)
        return MISTAKE
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
