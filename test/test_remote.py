"""The runtime "remote": against ``transformers serve`` with the built-in model, and against a server that
fails in every way it can.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from toy_scene import make_frame

import molmo_ros
from molmo_ros.cli import main
from molmo_ros.datatypes import RgbdFrame, TargetStatus
from molmo_ros.errors import AnswerError, CancelledError, ParameterError, ServerError
from molmo_ros.gripper import Gripper
from molmo_ros.pipeline import Grounder
from molmo_ros.runtimes.breaker import CircuitBreaker
from molmo_ros.runtimes.chat import data_url
from molmo_ros.runtimes.remote import RemoteMolmo, RemoteOptions
from molmo_ros.runtimes.server import Server, check_url

ROOT = Path(molmo_ros.__file__).parent.parent
RGB = make_frame(160, 120)[0].rgb
BOWL = "the white bowl"  # in the table's scene
ONE = '<points coords="1 1 500 500">can</points>'
KEY = "sk-very-secret"
Handler = BaseHTTPRequestHandler
Act = Callable[[Handler], None]


def table() -> RgbdFrame:
    from molmo_ros.sim import SimCamera

    return SimCamera(0).frame()


@dataclass
class Faulty:
    """A real HTTP server; ``acts``: what it does with one request after the other, the last one for ever."""

    acts: list[Act] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    broken: threading.Event = field(default_factory=threading.Event)  # the client has gone away
    url: str = ""

    def take(self, handler: Handler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        self.bodies.append(json.loads(handler.rfile.read(length) or b"{}"))
        self.headers.append(handler.headers)
        self.times.append(time.monotonic())
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        try:
            act(handler)
        except OSError:
            self.broken.set()


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    shared = Faulty()

    class One(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            shared.take(self)

        def do_GET(self) -> None:
            shared.take(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), One)
    shared.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield shared
    server.shutdown()
    server.server_close()


def status(code: int, body: str = "", **headers: str) -> Act:
    def act(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body.encode())

    return act


def events(*parts: str, finish: str | None = "stop", pause_s: float = 0.0, logprobs: Any = None) -> Act:
    """A stream of these pieces of text; ``finish`` None: it ends half way."""

    def act(handler: Handler) -> None:
        status(200, Content_Type="text/event-stream")(handler)
        for part in parts:
            choice = {"index": 0, "delta": {"content": part}, "logprobs": logprobs and logprobs(part)}
            handler.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
            time.sleep(pause_s)
        if finish:
            end = {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
            handler.wfile.write(f": comment\n\ndata: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode())

    return act


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def silence(handler: Handler) -> None:
    """Until the client has gone away."""
    handler.connection.settimeout(10.0)
    if not handler.connection.recv(1):
        raise ConnectionError


def drip(handler: Handler) -> None:
    """One byte of a line that never ends, for as long as the client stays."""
    status(200)(handler)
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.02)


def remote(faulty: Faulty, **options: Any) -> RemoteMolmo:
    return RemoteMolmo(RemoteOptions(**{"url": faulty.url, "model": "m", "timeout_s": 5.0, **options}))


def test_an_answer_becomes_points_without_confidence(faulty: Faulty) -> None:
    faulty.acts = [events("<points", ' coords="1 1 500', ' 500">', "can", "</points>")]
    answer = remote(faulty).point(RGB, "Point to the can.", label="can")
    assert answer.text == ONE
    (point,) = answer.points
    assert (point.x, point.y, point.label) == (79.5, 59.5, "can")  # 0.5 * 160 - 0.5
    assert math.isnan(point.confidence) and np.isnan(point.covariance).all()
    assert {"preprocess", "prefill", "decode"} == answer.stages_ms.keys()
    (body,) = faulty.bodies
    picture, words = body["messages"][0]["content"]
    assert words == {"type": "text", "text": "Point to the can."} and body["temperature"] == 0.0
    assert picture["image_url"]["url"] == data_url(RGB, "png")


def test_png_is_lossless_and_jpeg_small() -> None:
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    png, jpeg = (data_url(RGB, kind) for kind in ("png", "jpeg"))
    opened = Image.open(BytesIO(b64decode(png.removeprefix("data:image/png;base64,"))))
    assert np.array_equal(np.asarray(opened), RGB) and len(jpeg) < len(png)


def test_a_pointing_answer_ends_with_its_coordinates(faulty: Faulty) -> None:
    """What follows is not waited for, and the server notices."""
    faulty.acts = [events('<points coords="1 1 500 500">', *["x"] * 500, pause_s=0.02)]
    start = time.monotonic()
    assert remote(faulty).point(RGB, "Point to the can.", label="can").text == ONE
    assert time.monotonic() - start < 5.0 and faulty.broken.wait(5.0)


def test_a_server_that_does_not_stream(faulty: Faulty) -> None:
    message = {"choices": [{"message": {"content": "Two mugs."}, "finish_reason": "stop"}]}
    faulty.acts = [status(200, json.dumps(message, indent=2))]
    assert remote(faulty).answer(RGB, "What is there?").text == "Two mugs."


def test_probabilities_that_come_along_are_used(faulty: Faulty) -> None:
    def logprobs(part: str) -> dict[str, Any]:
        others = [{"token": d, "logprob": math.log(0.02)} for d in "1234"] if part.isdigit() else []
        p = math.log(0.9 if part.isdigit() else 0.99)
        return {"content": [{"token": part, "logprob": p, "top_logprobs": others}]}

    pieces = ['<points coords="1', " 1", " ", *"500", " ", *"500", '">', "can", "</points>"]
    faulty.acts = [events(*pieces, logprobs=logprobs)]
    (point,) = remote(faulty).point(RGB, "Point to the can.", label="can").points
    assert 0.3 < point.confidence < 0.95 and (np.diag(point.covariance) > 0).all()
    assert faulty.bodies[0]["logprobs"] is True


def test_a_server_that_refuses_probabilities_is_asked_without(faulty: Faulty) -> None:
    faulty.acts = [status(400, '{"error": "logprobs are not supported"}'), events(ONE)]
    model = remote(faulty)
    assert len(model.point(RGB, "Point to the can.", label="can").points) == 1
    model.point(RGB, "Point to the can.", label="can")
    assert ["logprobs" in body for body in faulty.bodies] == [True, False, False]


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
    ("act", "mend"),
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
def test_what_will_not_pass_is_told_at_once(faulty: Faulty, act: Act, mend: str) -> None:
    faulty.acts = [act]
    with pytest.raises(ServerError, match=mend):
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
    assert time.monotonic() - start < 2.0


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


def test_the_key_is_sent_and_never_shown(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", KEY)
    faulty.acts = [status(401, f"wrong key {KEY}")]
    model = remote(faulty, key_env="MY_KEY")
    with pytest.raises(ServerError) as caught:
        model.point(RGB, "Point to the can.")
    assert faulty.headers[0]["Authorization"] == f"Bearer {KEY}"
    faulty.acts = [status(200, f"data: {KEY}\n\n")]
    with pytest.raises(ServerError) as garbled:
        model.point(RGB, "Point to the can.")
    shown = [str(caught.value), str(garbled.value), repr(model.server), str(model.info), caplog.text]
    assert not any(KEY in text for text in shown)
    assert Server("http://robot.example/v1", 1.0, 0, KEY) and "unencrypted" in caplog.text
    with pytest.raises(ParameterError) as odd:  # http.client would show it in its own error
        Server("https://robot.example/v1", 1.0, 0, f"{KEY}\n{KEY}")
    assert KEY not in str(odd.value)


@pytest.mark.parametrize(
    "url",
    ["", "server:8000", "ftp://a/v1", "http://", "http://u:p@host/v1", "http://a:99999", "http://a?k=1"],
)
def test_addresses_that_cannot_be(url: str) -> None:
    with pytest.raises(ParameterError, match="remote_url"):
        check_url(url)


def test_the_path_of_an_address() -> None:
    paths = {"http://a": "/v1", "http://a:8/v1/": "/v1", "https://a/x/v1": "/x/v1"}
    assert {url: check_url(url).path for url in paths} == paths


def test_the_only_model_is_taken_and_one_of_several_must_be_named(faulty: Faulty) -> None:
    faulty.acts = [status(200, '{"data": [{"id": "molmo"}]}'), events(ONE)]
    model = remote(faulty, model="")
    model.point(RGB, "Point to the can.")
    assert faulty.bodies[-1]["model"] == "molmo"
    faulty.acts = [status(200, '{"data": [{"id": "a"}, {"id": "b"}]}')]
    with pytest.raises(ParameterError, match=r"a, b.*remote_model"):
        remote(faulty, model="").point(RGB, "Point to the can.")


def test_loading_goes_on_without_a_server_but_not_with_a_wrong_key(
    faulty: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    options = RemoteOptions(url=faulty.url, model="m")
    faulty.acts = [status(503)]
    assert RemoteMolmo.load(options).server.breaker.state == "closed" and "goes on" in caplog.text
    faulty.acts = [status(401)]
    with pytest.raises(ServerError, match="remote_key_env"):
        RemoteMolmo.load(options)
    with pytest.raises(ParameterError, match="jpeg"):
        RemoteMolmo(replace(options, image="gif"))
    with pytest.raises(ParameterError, match="molmo1"):
        RemoteMolmo(replace(options, format="molmo3"))


def test_control_tokens_never_reach_the_server(faulty: Faulty) -> None:
    faulty.acts = [events(ONE)]
    remote(faulty).point(RGB, "Point to <|im_end|> the can <im_patch>.")
    assert faulty.bodies[0]["messages"][0]["content"][1]["text"] == "Point to the can ."


def test_molmo_of_2024_points_in_per_cent(faulty: Faulty) -> None:
    faulty.acts = [events(' <point x="50.0" y="25.0" alt="can">can</point>')]
    (point,) = remote(faulty, format="molmo1").point(RGB, "Point to the can.", label="can").points
    assert (point.x, point.y) == (79.5, 29.5)


def test_unknown_confidence_goes_all_the_way_to_a_grasp(faulty: Faulty) -> None:
    """What is not known stays NaN, and breaks nothing."""
    frame = table()
    local = Grounder.load().grasp(frame, BOWL)
    assert local.targets and local.targets[0].status is TargetStatus.OK
    faulty.acts = [events(local.answer.text)]
    grounder = Grounder(remote(faulty), Gripper.load("franka_hand"))
    target = grounder.grasp(frame, BOWL).targets[0]
    assert target.status is TargetStatus.OK and target.grasp is not None
    assert target.covariance is not None and np.isnan(target.covariance).all()
    assert np.allclose(target.position, local.targets[0].position)


def test_nonsense_is_not_mistaken_for_not_there(faulty: Faulty) -> None:
    faulty.acts = [events('<points coords="1 1 9999 9999">can</points>')]
    with pytest.raises(AnswerError):
        Grounder(remote(faulty), Gripper.load("franka_hand")).point(RGB, "the can")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, model) of ``transformers serve`` with the built-in model."""
    missing = [
        name for name in ("torch", "transformers", "fastapi", "uvicorn", "openai") if not find_spec(name)
    ]
    if missing:
        pytest.skip(f"transformers serve needs {', '.join(missing)}: pip install 'transformers[serving]'")
    folder = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(ROOT / "molmo_ros" / "assets" / "tiny", folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [602, 600], "pad_token_id": 600}')
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
    command = [sys.executable, str(Path(__file__).parent / "serve_tiny.py"), str(folder), str(port)]
    with (folder.parent / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
        try:
            _wait_for(f"http://localhost:{port}/health", process, folder.parent / "log")
            yield f"http://localhost:{port}/v1", str(folder)
        finally:
            process.terminate()
            process.wait(20)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no server: {log.read_text()[-2000:]}")


def test_a_real_server_gives_the_points_of_the_local_runtime(serving: tuple[str, str]) -> None:
    from molmo_ros.sim import SimCamera

    url, name = serving
    local = Grounder.load()
    far = Grounder(RemoteMolmo(RemoteOptions(url=url, model=name, timeout_s=60.0)), local.gripper)
    found = 0
    for seed in (11, 12, 13):
        camera = SimCamera(seed)
        frame = camera.frame()
        for query in ["the " + camera.truth.objects[0].name, "the blue banana"]:
            here, there = local.point(frame.rgb, query), far.point(frame.rgb, query)
            assert there.text == here.text
            assert [(p.x, p.y, p.label) for p in there.points] == [(p.x, p.y, p.label) for p in here.points]
            found += len(here.points)
    assert found >= 2  # not only words of absence were compared


def test_the_command_asks_a_real_server(
    serving: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from molmo_ros import io

    url, name = serving
    io.write_color(tmp_path / "table.png", table().rgb)
    ground = ["ground", str(tmp_path / "table.png"), BOWL, "--runtime", "remote"]
    assert main([*ground, "--remote-url", url, "--remote-model", name]) == 0
    assert "confidence unknown" in capfd.readouterr().out
    assert main([*ground, "--remote-url", url, "--remote-model", "other", "--json"]) == 1
    result = json.loads(capfd.readouterr().out)
    assert result["code"] == "SERVER" and "pinned" in result["error"]


def test_cancel_stops_a_real_server(serving: tuple[str, str]) -> None:
    url, name = serving
    model = RemoteMolmo(RemoteOptions(url=url, model=name, timeout_s=60.0))
    with pytest.raises(CancelledError):
        model.answer(RGB, "What is there?", max_new_tokens=1000, should_stop=lambda: True)
    assert model.answer(RGB, "Point to the red can.").text  # and it answers the next one
