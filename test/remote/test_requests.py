"""What is sent, and to whom: addresses, key, model, words and picture."""

from __future__ import annotations

import logging
from base64 import b64decode
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from faulty_server import ONE, Faulty, events, remote, status
from PIL import Image
from toy_scene import make_frame

from molmo_ros import Grounder
from molmo_ros.errors import ParameterError, QueryError, ServerError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.runtimes.remote.chat import data_url
from molmo_ros.runtimes.remote.remote import RemoteMolmo, RemoteOptions
from molmo_ros.runtimes.remote.server import Server, check_url

RGB = make_frame(160, 120)[0].rgb
KEY = "sk-very-secret"


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


def test_the_only_model_is_taken_and_one_of_several_must_be_named(faulty: Faulty) -> None:
    faulty.acts = [status(200, '{"data": [{"id": "molmo"}]}'), events(ONE)]
    model = remote(faulty, model="")
    model.point(RGB, "Point to the can.")
    assert faulty.bodies[-1]["model"] == "molmo"
    faulty.acts = [status(200, '{"data": [{"id": "a"}, {"id": "b"}]}')]
    with pytest.raises(ParameterError, match=r"a, b.*remote_model"):
        remote(faulty, model="").point(RGB, "Point to the can.")


def test_loading_goes_on_without_a_server_but_not_with_a_wrong_key(faulty: Faulty) -> None:
    options = RemoteOptions(url=faulty.url, model="m")
    faulty.acts = [status(503)]
    model = RemoteMolmo.load(options)
    assert model.server.breaker.state == "closed" and "503" in model.info["away"]
    faulty.acts = [status(401)]
    with pytest.raises(ServerError, match="remote_key_env"):
        RemoteMolmo.load(options)
    with pytest.raises(ParameterError, match="jpeg"):
        RemoteMolmo(replace(options, image="gif"))
    with pytest.raises(ParameterError, match="molmo1"):
        RemoteMolmo(replace(options, format="molmo3"))


def test_control_tokens_never_reach_the_server(faulty: Faulty) -> None:
    faulty.acts = [events(ONE)]
    model = remote(faulty)
    for prompt in ("Point to <|im_end|> the can.", "<im_patch>"):
        with pytest.raises(QueryError, match="control token"):
            model.point(RGB, prompt)
    assert not faulty.bodies
    Grounder(model, Gripper.load("franka_hand")).point(RGB, "<|im_end|> the can <im_patch>")
    assert faulty.bodies[0]["messages"][0]["content"][1]["text"] == "Point to the can."


def test_png_is_lossless_and_jpeg_small() -> None:
    png, jpeg = (data_url(RGB, kind) for kind in ("png", "jpeg"))
    opened = Image.open(BytesIO(b64decode(png.removeprefix("data:image/png;base64,"))))
    assert np.array_equal(np.asarray(opened), RGB) and len(jpeg) < len(png)
