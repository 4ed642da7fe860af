"""Servers that are unreachable, slow, full, or talk nonsense."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from faulty_server import ONE, Act, Faulty, drip, events, hang_up, remote, silence, status
from toy_scene import make_frame

from molmo_ros.errors import CancelledError, ServerError
from molmo_ros.runtimes.remote.breaker import CircuitBreaker

RGB = make_frame(160, 120)[0].rgb


@pytest.mark.parametrize("act", [status(500), status(503), hang_up, events("<poi", finish=None)])
def test_what_may_pass_is_tried_again(faulty: Faulty, act: Act) -> None:
    faulty.acts = [act, act, events(ONE)]
    assert remote(faulty).point(RGB, "Point to the can.", label="can").text == ONE
    first, second, third = faulty.times
    assert second - first >= 0.1 and third - second >= 0.2  # half of 0.25 s and of 0.5 s at least


def test_an_error_inside_the_stream_is_tried_again(faulty: Faulty) -> None:
    faulty.acts = [status(200, 'data: {"error": "out of memory"}\n\n'), events(ONE)]
    assert remote(faulty).point(RGB, "Point to the can.", label="can").text == ONE


def test_patience_that_a_server_asks_for_is_had(faulty: Faulty) -> None:
    faulty.acts = [status(429, Retry_After="1"), events(ONE)]
    model = remote(faulty)
    model.point(RGB, "Point to the can.", label="can")
    assert faulty.times[1] - faulty.times[0] >= 1.0
    faulty.acts = [status(429, "slow down", Retry_After="3600")]
    with pytest.raises(ServerError, match="429: slow down"):  # longer than anybody waits
        model.point(RGB, "Point to the can.")
    assert model.server.breaker.state == "closed"  # overload is not absence


@pytest.mark.parametrize(
    ("act", "fix"),
    [
        (status(400, "bad picture"), "bad picture"),
        (status(401), "remote_key_env"),
        (status(404), "remote_model"),
        (status(413), "jpeg"),
        (status(307, Location="http://example.org/"), "307"),
        (status(200, "<html>It works!</html>"), "no JSON"),
        (status(200, "data: {broken\n\n"), "no JSON"),
        (status(200, 'data: {"id": 1}\n\n'), "no choices"),
        (status(200, 'data: {"choices": [7]}\n\n'), "OpenAI's protocol"),
    ],
)
def test_what_will_not_pass_is_told_at_once(faulty: Faulty, act: Act, fix: str) -> None:
    faulty.acts = [act]
    with pytest.raises(ServerError, match=fix):
        remote(faulty).point(RGB, "Point to the can.")
    assert len(faulty.times) == 1


@pytest.mark.parametrize("act", [silence, drip])
def test_a_request_ends_in_time(faulty: Faulty, act: Act) -> None:
    faulty.acts = [act]
    with pytest.raises(ServerError, match=r"within 0\.4 s"):
        remote(faulty, timeout_s=0.4, retries=0).point(RGB, "Point to the can.")
    assert faulty.broken.wait(5.0)  # the server is told too


@pytest.mark.parametrize("act", [silence, drip, status(503), events(*"x" * 500, pause_s=0.02)])
def test_cancel(faulty: Faulty, act: Act) -> None:
    faulty.acts = [act]
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        remote(faulty, retries=10).answer(RGB, "What is there?", should_stop=stop.is_set)
    assert time.monotonic() - start < 7.0  # the servers would be silent for ten, or for ever


def test_nobody_listens(faulty: Faulty) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # never listens
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(ServerError, match="connection refused"):
            remote(faulty, url=url, retries=1).point(RGB, "Point to the can.")


def test_the_circuit_opens_and_closes_again(faulty: Faulty) -> None:
    faulty.acts = [status(502)]
    model = remote(faulty)
    model.server.breaker = CircuitBreaker(wait_s=0.3)
    with pytest.raises(ServerError, match="502"):
        model.point(RGB, "Point to the can.")
    asked = len(faulty.times)
    with pytest.raises(ServerError, match="left alone"):
        model.point(RGB, "Point to the can.")
    assert asked == len(faulty.times) == 3  # nothing is sent while it is open
    time.sleep(0.35)
    faulty.acts = [events(ONE)]
    assert model.point(RGB, "Point to the can.", label="can").points
    assert model.server.breaker.state == "closed"


def test_breaker_by_hand() -> None:
    now = [0.0]
    breaker = CircuitBreaker(most=2, wait_s=1.0, longest_s=3.0, clock=lambda: now[0])

    def fail() -> None:
        breaker.enter()
        breaker.fail("down")

    fail()
    breaker.enter()
    breaker.succeed()  # the count is of failures in a row
    fail()
    fail()
    assert breaker.state == "open"
    for wait in (1.0, 2.0, 3.0, 3.0):  # doubled, up to the longest
        with pytest.raises(ServerError, match="left alone"):
            breaker.enter()
        now[0] += wait
        assert breaker.state == "half-open"
        breaker.enter()
        with pytest.raises(ServerError):  # one probe at a time
            breaker.enter()
        breaker.leave()  # the probe was cancelled: the next one may try
        fail()
    now[0] += 3.0
    breaker.enter()
    breaker.succeed()
    assert breaker.state == "closed"
