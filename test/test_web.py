"""The web view without ROS: what goes over the wire, who may look, how much, and a recording that answers."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the packages of requirements/web.txt are not installed here")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")
from toy_scene import make_frame
from web_server import Page, served
from websockets.exceptions import InvalidStatus

from molmo_ros import Grounder, io
from molmo_ros.cli.entry import main
from molmo_ros.datatypes import RgbdFrame
from molmo_ros.errors import FrameError, ParameterError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.recording.reel import FolderReel
from molmo_ros.sim import SimCamera
from molmo_ros.web import wire
from molmo_ros.web.access import HEADERS, Access, split_host
from molmo_ros.web.app import LINGER_S
from molmo_ros.web.hub import HISTORY, Hub
from molmo_ros.web.recorded import RecordedSource
from molmo_ros.web.seat import BYTES_PER_S, MAX_UNACKED, Pace
from molmo_ros.web.serve import listen, token_for
from molmo_ros.web.source import Reply, perform
from molmo_ros.web.targets import ellipsoid, gripper_message

SEED, GOOD, ABSENT = 0, "the white bowl", "the blue banana"


class Flood:
    """A source that says as much as it can: 300 kB, again and again."""

    name, live = "flood", True

    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.message = wire.pack({"kind": "live"}, bytes(300_000))

    def open(self, hub: Hub) -> None:
        self.opened += 1

    def close(self) -> None:
        self.closed += 1

    def ground(self, query: str) -> Reply:
        return Reply(True, "1 target", answer=query)

    def ask(self, question: str) -> Reply:
        time.sleep(1.0)
        return Reply(True, "", answer=question)

    def track(self, query: str) -> Reply:
        raise FrameError("no camera; start it")

    def cancel(self) -> Reply:
        return Reply(True, "stopped")

    def save(self) -> Reply:
        raise ZeroDivisionError("a bug")

    def move(self, to: str) -> Reply:
        return Reply(True, to)


# --- on the wire


def test_a_message_is_a_header_and_a_payload() -> None:
    message = wire.pack({"kind": "live", "n": 1}, b"abc")
    assert wire.unpack(message) == ({"kind": "live", "n": 1}, b"abc")
    assert (len(message) - 3) % 4 == 0  # the page reads int16 right behind the header


def test_a_cloud_holds_the_points_and_colours_of_the_pixels() -> None:
    K = np.array([[100.0, 0, 2], [0, 100, 1], [0, 0, 1]])
    depth = np.full((3, 5), 0.5, np.float32)
    depth[0, 0], depth[0, 1], depth[0, 2] = np.nan, 0.0, 9.0  # none, none, too far
    rgb = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    T = np.eye(4)
    T[:3, 3] = 1, 2, 3
    header, payload = wire.unpack(wire.scene_message(RgbdFrame(rgb, depth, K, stamp_ns=2**60 + 1), T, "base"))
    count = header["count"]
    assert count == 12 and len(payload) == 9 * count
    points = np.frombuffer(payload[: 6 * count], "<i2").reshape(-1, 3) * header["unit_m"]
    colors = np.frombuffer(payload[6 * count :], np.uint8).reshape(-1, 3)
    np.testing.assert_allclose(points[0], [(3 - 2) / 100 * 0.5, (0 - 1) / 100 * 0.5, 0.5], atol=2.6e-4)
    np.testing.assert_allclose(points[-1], [(4 - 2) / 100 * 0.5, (2 - 1) / 100 * 0.5, 0.5], atol=2.6e-4)
    np.testing.assert_array_equal(colors[0], rgb[0, 3])
    assert header["stamp_ns"] == str(2**60 + 1)  # a number would lose its last digits in JavaScript
    assert header["frame_id"] == "base" and np.reshape(header["T"], (4, 4))[:3, 3].tolist() == [1, 2, 3]


def test_a_large_frame_is_thinned_out() -> None:
    frame, _ = make_frame(1280, 960)
    header, payload = wire.unpack(wire.scene_message(frame, None, "eye"))
    assert 0.4 * wire.MAX_POINTS < header["count"] <= wire.MAX_POINTS and len(payload) < 400_000


def test_a_wide_image_is_scaled_and_keeps_its_pixels_size() -> None:
    import cv2

    header, jpeg = wire.unpack(
        wire.image_message("live", np.full((900, 1600, 3), (250, 10, 20), np.uint8), 1)
    )
    assert (header["width"], header["height"]) == (1600, 900)
    shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (720, 1280, 3)
    np.testing.assert_allclose(shown[300, 300], (20, 10, 250), atol=8)  # OpenCV's order: red stayed red


def test_the_ellipsoid_is_two_sigmas_along_the_axes() -> None:
    found = ellipsoid(np.diag([1e-6, 4e-6, 9e-6]))
    assert found is not None
    np.testing.assert_allclose(sorted(found["radii"]), [2e-3, 4e-3, 6e-3])
    np.testing.assert_allclose(np.linalg.norm(found["orientation"]), 1.0)
    assert ellipsoid(np.full((3, 3), np.nan)) is None


def test_the_hand_is_that_of_the_gripper() -> None:
    hand = Gripper.load("robotiq_2f_85")
    told = gripper_message(hand)
    assert told["finger"][2] == hand.finger_length and told["max_opening"] == hand.max_opening


# --- the newest of each kind


def test_a_client_gets_the_newest_and_each_kind_in_turn() -> None:
    hub, seen = Hub(), {}
    for number in range(5):
        hub.put("a", str(number))
    hub.put("b", "b")
    order = []
    while (found := hub.newer(seen)) is not None:
        kind, seen[kind], message = found
        order.append(message)
        if len(order) < 4:
            hub.put("a", "again")
    assert order[:2] == ["4", "b"] and order.count("b") == 1  # a that is always new does not starve b


def test_what_was_dropped_is_not_sent() -> None:
    hub = Hub()
    hub.put("live", "old")
    hub.put("answer", "kept")
    hub.drop("live", "scene")
    found = hub.newer({})
    assert found is not None and found[0] == "answer" and hub.newer({"answer": found[1]}) is None


def test_the_history_is_short() -> None:
    hub = Hub()
    for number in range(HISTORY + 10):
        hub.note(f"query {number}", "find", "1 target", True)
    found = hub.newer({})
    assert found is not None and isinstance(found[2], str)
    assert found[2].count('"query"') == HISTORY and "query 9" not in found[2].split("query 10")[0]


def test_pace_keeps_the_rate() -> None:
    now = [0.0]
    pace = Pace(1000.0, lambda: now[0])
    assert pace.wait_s() == 0.0
    pace.sent(500)
    assert pace.wait_s() == 0.5
    now[0] = 10.0
    pace.sent(100)  # what was not used is not saved up
    assert pace.wait_s() == pytest.approx(0.1)


# --- who may look


@pytest.mark.parametrize(
    ("served_on", "host", "known"),
    [
        ("127.0.0.1", "127.0.0.1:8137", True),
        ("127.0.0.1", "localhost:8137", True),
        ("127.0.0.1", "[::1]:8137", True),
        ("127.0.0.1", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1:80", False),
        ("127.0.0.1", "evil.example:8137", False),
        ("127.0.0.1", "127.0.0.1.evil.example:8137", False),
        ("127.0.0.1", "localhost.evil.example:8137", False),
        ("127.0.0.1", "192.168.1.5:8137", False),
        ("127.0.0.1", "", False),
        ("0.0.0.0", "192.168.1.5:8137", True),
        ("0.0.0.0", "evil.example:8137", False),
        ("robot.lab", "robot.lab:8137", True),
        ("robot.lab", "ROBOT.lab:8137", True),
        ("robot.lab", "robot.lab.evil.example:8137", False),
    ],
)
def test_a_host_that_was_pointed_here_is_not_served(served_on: str, host: str, known: bool) -> None:
    assert Access(served_on, 8137).knows_host(host) is known


@pytest.mark.parametrize("host", ["a:b:c", "a:99999999", "a:-1", ":", "[::1", "x:٣"])
def test_nonsense_of_a_host_is_no_error(host: str) -> None:
    assert isinstance(split_host(host), tuple)
    assert not Access("127.0.0.1", 8137).knows_host(host)


def test_only_this_machine_is_served_without_a_token() -> None:
    assert token_for("127.0.0.1", "") == token_for("::1", "") == token_for("localhost", "") == ""
    assert len(token_for("0.0.0.0", "")) >= 32 and len(token_for("192.168.1.5", "")) >= 32
    assert token_for("0.0.0.0", "a" * 16) == token_for("127.0.0.1", "a" * 16) == "a" * 16
    for bad in ("short", "a" * 15, "a" * 20 + "\n", "a" * 20 + "&b"):
        with pytest.raises(ParameterError, match="16 to 128"):
            token_for("127.0.0.1", bad)


def get(port: int, path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; redirects are not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        answer = urllib.request.build_opener(Stay).open(request, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()


def test_pages_of_others_and_other_hosts_are_refused() -> None:
    with served(Flood()) as (access, _):
        port, own = access.port, f"http://127.0.0.1:{access.port}"
        status, headers, body = get(port)
        assert status == 200 and b"molmo_ros" in body
        assert {name: headers[name] for name in HEADERS} == HEADERS
        assert "'unsafe" not in headers["content-security-policy"]
        assert get(port, "/static/main.js")[1]["content-type"].startswith("text/javascript")
        assert get(port, Host=f"evil.example:{port}")[0] == 403
        assert get(port, Origin="http://evil.example")[0] == 403
        assert get(port, Origin="null")[0] == 403
        assert get(port, Origin=own)[0] == 200
        assert get(port, "/static/../web_server.py")[0] == get(port, "/static/%2e%2e/__init__.py")[0] == 404
        for origin in (None, "http://evil.example", "null", own.replace("http", "https")):
            with pytest.raises(InvalidStatus):
                Page(access, origin=origin)
        with pytest.raises(InvalidStatus):
            Page(access, additional_headers={"Host": "evil.example"})
        Page(access).close()


def test_a_token_is_asked_for_and_moves_into_a_cookie() -> None:
    token = "s" * 20
    with served(Flood(), token=token) as (access, _):
        port = access.port
        assert get(port)[0] == get(port, "/?token=wrong")[0] == get(port, "/static/main.js")[0] == 401
        with pytest.raises(InvalidStatus):
            Page(access)
        status, headers, _ = get(port, f"/?token={token}")
        assert status == 303 and headers["location"] == "/"
        cookie = headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        pair = headers["set-cookie"].split(";")[0]
        assert get(port, Cookie=pair)[0] == 200
        assert get(port, Cookie=pair.replace("s" * 20, "t" * 20))[0] == 401
        Page(access, additional_headers={"Cookie": pair}).close()
        assert get(port, f"//evil.example/?token={token}")[1].get("location", "/") == "/"


def test_a_port_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(ParameterError, match="give another port"):
            listen("127.0.0.1", first.getsockname()[1])
    with pytest.raises(ParameterError, match="give an address of this machine"):
        listen("no.such.host.invalid", 0)


# --- how much, and for whom


def test_a_page_gets_no_more_than_ten_megabytes_a_second() -> None:
    source = Flood()
    with served(source) as (access, hub), Page(access, ["live"]) as page:
        started = time.monotonic()
        while time.monotonic() < started + 2.0:
            hub.put("live", source.message)
            page.receive(0.001)
        rate = page.bytes / (time.monotonic() - started)
    assert 2e6 < rate <= BYTES_PER_S * 1.05, f"{rate / 1e6:.1f} MB/s"


def test_a_page_that_is_slow_or_hidden_is_not_sent_more() -> None:
    source = Flood()
    with (
        served(source) as (access, hub),
        Page(access, ["live"], acks=False) as slow,
        Page(access, []) as hidden,
    ):
        for number in range(20):
            hub.put("live", source.message)
            hub.tell("track", {"number": number})
            time.sleep(0.05)
            slow.receive(0.01)
        while slow.receive(0.3):
            pass
        while hidden.receive(0.3):
            pass
        assert slow.counts["live"] == MAX_UNACKED and slow.newest["track"]["number"] == 19
        assert "live" not in hidden.counts and hidden.newest["track"]["number"] == 19
        assert not hub.watched("scene") and hub.watched("live")


def test_the_source_is_open_while_a_page_is() -> None:
    source = Flood()
    with served(source) as (access, hub):
        assert get(access.port)[0] == 200 and source.opened == 0  # the page alone costs nothing
        first = Page(access)
        with Page(access) as second:
            second.until("hello")
            assert source.opened == 1 and hub.clients == 2
        first.close()
        time.sleep(LINGER_S / 3)
        third = Page(access)  # loaded anew: the source is still there
        third.until("hello")
        time.sleep(LINGER_S)
        assert (source.opened, source.closed) == (1, 0)
        third.close()
        time.sleep(LINGER_S + 1.5)
        assert (source.opened, source.closed, hub.clients) == (1, 1, 0)
        hub.put("live", source.message)
        with Page(access) as later:
            while later.receive(0.3):
                pass
        time.sleep(LINGER_S + 1.5)
        with Page(access) as last:
            while last.receive(0.3):
                pass
        assert "live" in later.counts and "live" not in last.counts  # an old image is not taken for a new one


def test_requests_are_answered_one_at_a_time_and_nonsense_does_no_harm() -> None:
    with served(Flood()) as (access, _), Page(access) as page:
        for text in ("", "{", "[]", '"x"', "[" * 5000, '{"type": 3}', '{"type": "shows", "kinds": [[1]]}'):
            page.socket.send(text)
        page.send({"type": "request", "number": [1], "action": {"a": 1}, "text": None})
        assert page.until("reply")["code"] == "BAD_PARAMETER"
        assert page.request("ground", "it")["answer"] == "it"
        page.send({"type": "request", "number": 7, "action": "ask", "text": "slow"})
        assert page.request("ground", "it")["code"] == "BUSY"
        assert page.request("cancel")["success"]  # runs beside the rest
        assert page.until("reply", lambda reply: reply["number"] == 7)["answer"] == "slow"


@pytest.mark.parametrize(
    ("action", "text", "code", "told"),
    [
        ("track", "it", "BAD_FRAME", "no camera; start it"),
        ("save", "", "ERROR", "ZeroDivisionError: a bug"),
        ("ground", "x" * 2000, "BAD_PARAMETER", "2000 characters"),
        ("close", "", "BAD_PARAMETER", "no request 'close'"),
        ("__init__", "", "BAD_PARAMETER", "no request"),
    ],
)
def test_what_fails_is_told(action: str, text: str, code: str, told: str) -> None:
    reply = perform(Flood(), action, text)
    assert not reply.success and reply.code == code and told in reply.message


# --- a recording


@pytest.fixture(scope="module")
def grounder() -> Iterator[Grounder]:
    grounder = Grounder.load()
    yield grounder
    grounder.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of a scene; the second has no depth."""
    folder = tmp_path_factory.mktemp("frames")
    camera = SimCamera(SEED)
    for name in ("a", "b", "c"):
        frame = camera.frame()
        io.write_color(folder / f"{name}_color.png", frame.rgb)
        if name != "b":
            io.write_depth(folder / f"{name}_depth.png", frame.depth)
    io.write_camera_info(folder / "camera_info.yaml", frame.K, camera.width, camera.height, "eye")
    (folder / "c_answer.json").write_text('{"query": "the white bowl"}')
    return folder


def test_a_recording_answers_and_can_be_stepped_through(folder: Path, grounder: Grounder) -> None:
    with served(RecordedSource(FolderReel(folder), grounder)) as (access, _), Page(access) as page:
        assert page.until("scene")[0]["count"] > 10_000
        assert page.newest["hello"] == {"type": "hello", "name": str(folder), "live": False}
        assert page.newest["reel"]["text"] == "1 of 3: a"
        reply = page.request("ground", GOOD)
        assert reply["success"], reply["message"]
        (target,) = page.has("answer")["targets"]
        assert target["status"] == "OK" and 0.2 < target["position"][2] < 1.5 and target["ellipsoid"]
        assert page.has("object")[0]["count"] > 100 and page.has("answer_image")[0]["width"] == 640

        page.request("move", "next")
        page.has("status", lambda status: status["level"] == "warn" and "b_depth.png" in status["text"])
        assert page.request("ground", GOOD)["code"] == "BAD_FRAME"
        page.request("move", "next")
        page.has("status", lambda status: status["level"] == "ok")
        page.has("reel", lambda reel: reel["query"] == GOOD)
        assert page.request("ground", ABSENT)["message"] == "not there"
        page.has("answer", lambda answer: answer["targets"] == [])
        assert page.request("move", "sideways")["code"] == page.request("save")["code"] == "BAD_PARAMETER"
        page.has("history", lambda told: [entry["query"] for entry in told["entries"]] == [GOOD, ABSENT])


def test_a_track_goes_on_through_the_frames(folder: Path, grounder: Grounder) -> None:
    with served(RecordedSource(FolderReel(folder), grounder)) as (access, _), Page(access) as page:
        page.until("scene")
        assert page.request("track", GOOD)["success"]
        page.has("track", lambda track: track["running"])
        before = page.has("answer")["pixels"][0]
        page.request("move", "next")  # a frame that cannot be used is passed over
        page.request("move", "next")
        followed = page.has("answer", lambda answer: answer["following"])
        np.testing.assert_allclose(followed["pixels"][0], before, atol=2.0)  # nothing moves there
        page.request("cancel")
        page.has("track", lambda track: not track["running"])


def test_two_pages_see_the_same(folder: Path, grounder: Grounder) -> None:
    source = RecordedSource(FolderReel(folder), grounder)
    with served(source) as (access, _), Page(access) as one, Page(access) as other:
        one.until("scene")
        other.until("scene")
        one.request("ground", GOOD)
        assert other.has("answer")["query"] == GOOD
        assert other.has("answer_image")[1] == one.has("answer_image")[1]


def test_a_folder_without_frames_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", "--frames", str(tmp_path)]) == 2
    assert "give a folder with NAME_color.png" in capsys.readouterr().err
    assert main(["view", "--frames", "a", "--bag", "b"]) == 2


def test_without_the_packages_all_but_the_view_works() -> None:
    """They are an extra: the other commands must not need them."""
    block = "import sys; sys.modules['starlette'] = None; from molmo_ros.cli import main; "
    for arguments, status, told in (
        (["policy", "check", "bring the mug"], 0, ""),
        (["view", "--frames", "x"], 1, '".[web]"'),
    ):
        command = [sys.executable, "-c", f"{block}sys.exit(main({arguments}))"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == status and told in done.stderr, done.stderr


def test_three_js_is_what_its_note_says() -> None:
    import hashlib

    from molmo_ros.web.app import PAGE

    note = (PAGE / "vendor" / "three.txt").read_text()
    digest = hashlib.sha256((PAGE / "vendor" / "three.min.js").read_bytes()).hexdigest()
    assert digest in note and "MIT" in (PAGE / "vendor" / "three.LICENSE").read_text()


def test_the_page_asks_nobody_else() -> None:
    """No CDN, no inline script or style: the Content-Security-Policy would stop them."""
    from molmo_ros.web.app import PAGE

    html = (PAGE / "index.html").read_text()
    assert "http" not in html and " style=" not in html and "onclick" not in html
    for path in PAGE.glob("*.js"):
        own = path.read_text().replace("://${location.host}", "")
        assert all(word not in own for word in ("innerHTML", "eval(", "://")), path.name
