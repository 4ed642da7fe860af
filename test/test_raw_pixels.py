"""Pixels in JSON are those of the image as it was published, also where its lens distorts and nothing but
following tells them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bags import INFO, Recorder
from raw_camera import D, K, RawCamera

from molmo_ros import io
from molmo_ros.cli import main
from molmo_ros.datatypes import RgbdFrame
from molmo_ros.sim import SimCamera

BOWL = "the white bowl"  # in the scene of SEED, once
SEED, START, STEP = 0, 1_700_000_000_000_000_000, 100_000_000


@pytest.fixture(scope="module")
def seen() -> tuple[SimCamera, RgbdFrame, RawCamera]:
    camera = SimCamera(SEED)
    frame = camera.frame()
    return camera, frame, RawCamera(frame)


def check(told: dict[str, Any], seen: tuple[SimCamera, RgbdFrame, RawCamera]) -> None:
    """Points and targets lie on the bowl in the raw image, and not where a pinhole camera would show it."""
    camera, _, lens = seen
    number = next(i for i, thing in enumerate(camera.truth.objects, 1) if thing.name in BOWL)
    ids = lens.bend_ids(camera.truth.ids)
    (point,), (target,) = told["points"], told["targets"]
    assert target["point"]["x"] == pytest.approx(point["x"]) and target["point"]["y"] == pytest.approx(
        point["y"]
    )
    assert ids[round(point["y"]), round(point["x"])] == number
    position = np.array(target["position"])
    ray = lens.ray(point["x"], point["y"])
    assert np.linalg.norm(position - position[2] * ray) < 0.010
    straight = np.linalg.inv(lens.pinhole_K) @ [point["x"], point["y"], 1.0]
    assert np.linalg.norm(position - position[2] * straight) > 0.010


def test_ground(
    seen: tuple[SimCamera, RgbdFrame, RawCamera], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, frame, lens = seen
    raw = lens.bend(frame)
    height, width = frame.depth.shape
    io.write_color(tmp_path / "c.png", raw.rgb)
    io.write_depth(tmp_path / "d.png", raw.depth)
    matrices = {
        "camera_matrix": {"rows": 3, "cols": 3, "data": K.ravel().tolist()},
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": D},
        "projection_matrix": {
            "rows": 3,
            "cols": 4,
            "data": np.hstack([frame.K, np.zeros((3, 1))]).ravel().tolist(),
        },
    }
    info = {"image_width": width, "image_height": height, "distortion_model": "plumb_bob", **matrices}
    (tmp_path / "i.yaml").write_text(yaml.safe_dump(info))
    images = ["--depth", str(tmp_path / "d.png"), "--camera-info", str(tmp_path / "i.yaml")]
    assert main(["ground", str(tmp_path / "c.png"), BOWL, *images, "--json"]) == 0
    check(json.loads(capfd.readouterr().out), seen)


def test_replay_asked_and_followed(seen: tuple[SimCamera, RgbdFrame, RawCamera], tmp_path: Path) -> None:
    pytest.importorskip("rosbags", reason='rosbags is not installed: pip install ".[bag]"')
    camera, first, lens = seen
    record = Recorder()
    frames = [(START + i * STEP, lens.bend(frame)) for i, frame in enumerate([first, camera.frame()])]
    bent = [
        replace(e, msg=replace(e.msg, d=np.array(D), k=K.ravel())) if e.kind == INFO else e
        for e in record.camera(frames)
    ]
    path = record.write(tmp_path / "raw", bent)
    out = ["--out", str(tmp_path / "t.jsonl"), "--film", str(tmp_path / "film.png")]
    assert main(["replay", str(path), "--query", BOWL, "--every", "2", "--track", *out]) == 0
    asked, followed = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert asked["asked"] and not followed["asked"]
    for line in (asked, followed):
        check(line, seen)
