"""The node with its model on a server: it lives on while the server is away, says so, and recovers."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rclpy.parameter import Parameter
from ros_helpers import GOOD, Camera, running

from molmo_ros.datatypes import RgbdFrame
from molmo_ros.msg import GraspTarget
from molmo_ros.pipeline import Grounder
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.node import MolmoNode


def serve(text: str, port: int = 0) -> ThreadingHTTPServer:
    """A server that gives one answer to everybody, in OpenAI's protocol."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(b'{"data": [{"id": "molmo"}]}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            event = {"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}
            self._send(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode())

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Answering)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


def stop(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def answer(frame: RgbdFrame) -> str:
    """What the built-in model says of the scene."""
    return Grounder.load().point(frame.rgb, GOOD).text


@pytest.fixture
def far(context: None) -> Iterator[tuple[MolmoNode, int]]:
    """A node whose server is away from the beginning, and the port where it looks for it."""
    reserved = serve("")
    port = reserved.server_port
    stop(reserved)
    values = {
        "runtime": "remote",
        "remote_url": f"http://127.0.0.1:{port}",
        "remote_retries": 0,
    }
    with running(values, namespace="/far") as node:
        yield node, port


def test_the_server_comes_goes_and_comes_back(
    far: tuple[MolmoNode, int], frame: RgbdFrame, answer: str
) -> None:
    node, port = far
    camera = Camera(frame, node, "/far")
    try:
        with GraspClient("/far/molmo") as client:
            client.wait_ready(60.0)  # configured and active, although there is no server
            camera.show()
            away = client.find(GOOD)
            assert not away.success and away.code == "SERVER" and "remote_url" in away.message
            # Without probabilities there is no covariance: not usable unless max_sigma does not ask for it.
            _check(client, camera, serve(answer, port), GraspTarget.UNCERTAIN)
            assert node.set_parameters([Parameter("max_sigma", value=0.0)])[0].successful
            _check(client, camera, serve(answer, port), GraspTarget.OK)
    finally:
        camera.node.destroy_node()


def _check(client: GraspClient, camera: Camera, server: ThreadingHTTPServer, status: int) -> None:
    """Found while the server is there, a failure that says why as soon as it is not."""
    try:
        camera.show()
        here = _until_found(client)
        assert len(here.targets) == 1 and here.targets[0].status == status, here.targets[0].status_text
        assert math.isnan(here.targets[0].point.confidence)  # this server tells no probabilities
    finally:
        stop(server)
    camera.show()
    gone = client.find(GOOD)
    assert not gone.success and gone.code == "SERVER"


def _until_found(client: GraspClient) -> Any:
    """The circuit may still be open; it closes by itself."""
    give_up = time.monotonic() + 60.0
    while time.monotonic() < give_up:
        response = client.find(GOOD)
        if response.success:
            return response
        assert response.code == "SERVER", response.message
        time.sleep(0.2)
    raise AssertionError(response.message)
