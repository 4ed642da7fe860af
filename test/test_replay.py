"""``molmo-ros replay`` on real recordings of the simulated camera, sqlite3 and MCAP, without ROS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bags import COMPRESSED, IMAGE, TF, Entry, Recorder
from PIL import Image as PilImage

import molmo_ros
from molmo_ros.cli import main
from molmo_ros.datatypes import RgbdFrame
from molmo_ros.draw.film import Film
from molmo_ros.errors import FrameError, ParameterError, TransformError
from molmo_ros.recording.bag import open_bag
from molmo_ros.recording.bag_tf import BagTransforms
from molmo_ros.recording.reel import BagReel

pytest.importorskip("rosbags", reason='rosbags is not installed: pip install ".[bag]"')

ROOT = Path(molmo_ros.__file__).parent.parent
BOWL = "the white bowl"  # in the scene of SEED, once
SEED, START, STEP = 0, 1_700_000_000_000_000_000, 100_000_000  # 10 Hz


@pytest.fixture(scope="module")
def record() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def frames() -> list[tuple[int, RgbdFrame]]:
    from molmo_ros.sim import SimCamera

    camera = SimCamera(SEED)
    return [(START + i * STEP, camera.frame()) for i in range(4)]


@pytest.fixture(scope="module")
def bag(
    record: Recorder, frames: list[tuple[int, RgbdFrame]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return record.write(tmp_path_factory.mktemp("bags") / "plain", record.camera(frames))


def replay(bag: Path, tmp_path: Path, *more: str, query: str = BOWL) -> list[str]:
    out = ["--out", str(tmp_path / "t.jsonl"), "--film", str(tmp_path / "film.png")]
    return ["replay", str(bag), "--query", query, *out, *more]


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("storage", "packed"), [("sqlite3", False), ("mcap", True)])
def test_a_bag_becomes_targets_and_a_contact_sheet(
    storage: str,
    packed: bool,
    record: Recorder,
    frames: list[tuple[int, RgbdFrame]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In a process without rclpy, from both storages, from raw and from compressed images."""
    path = record.write(tmp_path / "bag", record.camera(frames, packed), storage)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = replay(path, tmp_path, "--every", "2", "--json")
    code = (
        "import sys; sys.modules['rclpy'] = None\n"
        f"from molmo_ros.cli import main; sys.exit(main({command!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["frames"], result["with_targets"], result["failed"], result["unpaired"]) == (2, 2, 0, 0)
    first, second = lines(tmp_path)
    assert [first["frame"], second["frame"]] == [0, 2]
    assert [first["stamp_ns"], second["stamp_ns"]] == [START, START + 2 * STEP]
    assert {"query", "answer", "points", "targets", "stages_ms"} <= first.keys()
    assert main(ground_like(frames[0][1], tmp_path)) == 0
    expected = json.loads(capfd.readouterr().out)["targets"][0]
    target = first["targets"][0]
    assert target.keys() == expected.keys() and target["frame_id"] == "optical"
    tolerance = 0.01 if packed else 1e-9
    assert np.allclose(target["position"], expected["position"], atol=tolerance)
    sheet = PilImage.open(tmp_path / "film.png")
    assert sheet.size == (2 * 320 + 4, 240)


def ground_like(frame: RgbdFrame, folder: Path) -> list[str]:
    """The same question about the same frame on disk."""
    from molmo_ros import io

    height, width = frame.depth.shape
    io.write_color(folder / "c.png", frame.rgb)
    io.write_depth(folder / "d.png", frame.depth)
    io.write_camera_info(folder / "i.yaml", frame.K, width, height, "optical")
    images = ["--depth", str(folder / "d.png"), "--camera-info", str(folder / "i.yaml")]
    return ["ground", str(folder / "c.png"), BOWL, *images, "--json"]


def test_video_and_tracking(bag: Path, tmp_path: Path) -> None:
    film = str(tmp_path / "film.mp4")
    assert main([*replay(bag, tmp_path, "--every", "3", "--track"), "--film", film]) == 0
    asked, *followed = lines(tmp_path)
    assert [line["asked"] for line in (asked, *followed)] == [True, False, False, True]
    still = asked["targets"][0]
    for line in followed[:2]:
        assert "track" in line["stages_ms"] and line["answer"] == ""
        target = line["targets"][0]
        assert target["point"]["instance"] == still["point"]["instance"]
        assert np.allclose(target["position"], still["position"], atol=0.005)  # nothing moves in this scene
        assert target["stamp_ns"] == line["stamp_ns"]
    video = cv2.VideoCapture(film)
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 4 and video.get(cv2.CAP_PROP_FRAME_WIDTH) == 640


def test_targets_in_another_frame(
    record: Recorder, frames: list[tuple[int, RgbdFrame]], bag: Path, tmp_path: Path
) -> None:
    """base moves 1 m/s along x, the camera is mounted on it by a static transform."""
    down = (1.0, 0.0, 0.0, 0.0)  # half a turn about x: the camera looks down
    tf = [Entry(START - 1, "/tf_static", TF, record.transform("base", "optical", (0, 0, 1), down, START - 1))]
    for i in (-1, 7):  # two messages, so that the pose of each frame is interpolated
        at = START + i * STEP
        tf.append(Entry(at, "/tf", TF, record.transform("map", "base", (i * 0.1, 0, 0), (0, 0, 0, 1), at)))
    path = record.write(tmp_path / "moving", [*record.camera(frames), *tf])
    assert main(replay(bag, tmp_path, "--every", "1")) == 0
    optical = [np.array(line["targets"][0]["position"]) for line in lines(tmp_path)]
    assert main(replay(path, tmp_path, "--every", "1", "--target-frame", "map")) == 0
    for i, (line, here) in enumerate(zip(lines(tmp_path), optical, strict=True)):
        expected = np.array([0.1 * i, 0, 1]) + here * [1, -1, -1]
        assert np.allclose(line["targets"][0]["position"], expected, atol=1e-6)
        assert line["targets"][0]["frame_id"] == "map"


def test_tf_that_does_not_reach(record: Recorder, bag: Path, tmp_path: Path) -> None:
    def at(i: int, x: float) -> tuple[str, Any]:
        return "/tf", record.transform("map", "base", (x, 0, 0), (0, 0, 0, 1), i)

    tf = BagTransforms([at(1000, 0.0), at(2000, 1.0)])
    assert np.allclose(tf.lookup("map", "base", 1250)[:3, 3], [0.25, 0, 0])
    assert np.allclose(tf.lookup("base", "map", 2000)[:3, 3], [-1, 0, 0])
    assert tf.lookup("", "base", 0) is None and tf.lookup("base", "base", 0) is None
    with pytest.raises(TransformError, match="begins"):
        tf.lookup("map", "base", 999)
    with pytest.raises(TransformError, match="ends"):
        tf.lookup("map", "base", 2001)
    with pytest.raises(TransformError, match=r"'optical' with 'map'; it has base, map"):
        tf.lookup("map", "optical", 1500)
    assert main(replay(bag, tmp_path, "--target-frame", "map")) == 1  # this bag has no tf at all
    assert {line["code"] for line in lines(tmp_path)} == {"NO_TRANSFORM"}


def test_topics_by_name_where_there_is_a_choice(
    record: Recorder, frames: list[tuple[int, RgbdFrame]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    entries = record.camera(frames[:1])
    second = [replace(e, topic=e.topic.replace("/cam/", "/wrist/")) for e in entries]
    twin = record.compressed(b"", "rgb8; jpeg compressed bgr8", START)
    more = Entry(START, "/cam/color/image_raw/compressed", COMPRESSED, twin)
    path = record.write(tmp_path / "two", [*entries, *second, more])
    assert mistake(capfd, *replay(path, tmp_path)).count("image_raw (color)") == 2
    chosen = ["--image", "/wrist/color/image_raw", "--depth", "/wrist/depth/image_raw"]
    with open_bag(path) as opened:
        assert opened.find_topics(chosen[1], chosen[3]).camera_info == "/wrist/color/camera_info"
    assert main(replay(path, tmp_path, *chosen)) == 0
    assert "has no topic '/nope'" in mistake(capfd, *replay(path, tmp_path, "--image", "/nope"))
    wrong = mistake(capfd, *replay(path, tmp_path, "--image", "/cam/color/camera_info"))
    assert "holds sensor_msgs/msg/CameraInfo" in wrong and "/wrist/color/image_raw (color)" in wrong


def mistake(capfd: pytest.CaptureFixture[str], *args: str) -> str:
    capfd.readouterr()
    assert main(args) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_bags_that_cannot_be_used(
    record: Recorder,
    frames: list[tuple[int, RgbdFrame]],
    bag: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert "ros2 bag record" in mistake(capfd, *replay(tmp_path / "none", tmp_path))
    assert "reindex" in mistake(capfd, *replay(tmp_path, tmp_path))
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    assert "rosbags-convert" in mistake(capfd, *replay(tmp_path / "old.bag", tmp_path))
    assert "red mug" in mistake(capfd, *replay(bag, tmp_path, query=" "))
    assert "ends in .mp4" in mistake(capfd, *replay(bag, tmp_path, "--film", "film.avi"))
    assert "0 to 1 s" in mistake(capfd, *replay(bag, tmp_path, "--slop", "7"))
    entries = record.camera(frames[:1])
    no_depth = record.write(tmp_path / "no_depth", [e for e in entries if "depth" not in e.topic])
    assert "no depth image; record one" in mistake(capfd, *replay(no_depth, tmp_path))
    no_info = record.write(tmp_path / "no_info", [e for e in entries if "info" not in e.topic])
    assert "/cam/color/camera_info" in mistake(capfd, *replay(no_info, tmp_path))
    apart = record.write(tmp_path / "apart", record.camera(frames, late_ns=50_000_000))
    assert "--slop" in mistake(capfd, *replay(apart, tmp_path))
    assert main(replay(apart, tmp_path, "--slop", "0.06")) == 0


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_a_truncated_bag_is_told_as_such(
    storage: str,
    record: Recorder,
    frames: list[tuple[int, RgbdFrame]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = record.write(tmp_path / "cut", record.camera(frames), storage)
    (data,) = (f for f in path.iterdir() if f.suffix in (".db3", ".mcap"))
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    assert "truncated" in mistake(capfd, *replay(data, tmp_path))


def test_a_bad_frame_does_not_end_the_replay(
    record: Recorder, frames: list[tuple[int, RgbdFrame]], tmp_path: Path
) -> None:
    entries = record.camera(frames)
    bad = record.image(np.zeros((480, 640), np.uint8), "bayer_rggb8", START + STEP)
    spoilt = [Entry(e.at_ns, e.topic, IMAGE, bad) if e.msg is entries[3].msg else e for e in entries]
    path = record.write(tmp_path / "spoilt", spoilt)
    assert main(replay(path, tmp_path, "--every", "1")) == 0
    records = lines(tmp_path)
    assert [line.get("code") for line in records] == [None, "BAD_FRAME", None, None]
    assert "debayer" in records[1]["error"]


def test_frames_wait_for_their_nearest_partner(
    record: Recorder, frames: list[tuple[int, RgbdFrame]], tmp_path: Path
) -> None:
    """Depth is recorded late and out of order, one is missing, and the clock jumps back in between."""
    entries = record.camera(frames, late_ns=0)
    again = record.camera([(at - 50 * STEP, frame) for at, frame in frames], late_ns=0)
    shuffled = [replace(e, at_ns=e.at_ns + 15_000_000 * (i % 3)) for i, e in enumerate(entries)]
    later = [replace(e, at_ns=e.at_ns + 100 * STEP) for e in again]
    lost = [e for i, e in enumerate([*shuffled, *later]) if i != 4]  # the depth of the second frame
    with open_bag(record.write(tmp_path / "odd", lost)) as opened:
        topics = opened.find_topics()
        stamps = [stamp for stamp, _ in opened.frames(topics, 0.02)]
        first = [at for at, _ in frames]
        assert stamps == [first[0], *first[2:], *(at - 50 * STEP for at in first)]
        assert opened.unpaired == 1


def test_a_contact_sheet_spans_the_whole_film(tmp_path: Path) -> None:
    with Film(tmp_path / "sheet.png", 10.0) as film:
        for i in range(100):
            film.add(np.full((48, 64, 3), i, np.uint8))
    sheet = np.asarray(PilImage.open(tmp_path / "sheet.png"))
    middles = sheet[120::244, 160::324, 0].ravel()  # tiles are 320x240, 4 px apart
    shown = [int(value) for value in middles if value % 8 == 0]  # those of the empty places are not
    assert shown == list(range(0, 100, 8))


def test_without_images_there_is_no_film(tmp_path: Path) -> None:
    Film(tmp_path / "none.mp4", 10.0).close()
    assert not any(tmp_path.iterdir())
    with pytest.raises(FrameError), open_bag(tmp_path):
        pass


def test_a_reel_goes_through_a_bag_and_starts_again(bag: Path, frames: list[tuple[int, RgbdFrame]]) -> None:
    reel = BagReel(str(bag))
    assert reel.rate_hz == pytest.approx(1e9 / STEP, rel=0.5)
    shots = [reel.move("next") for _ in range(5)]
    numbers = [shot.name.split(",")[0] for shot in shots]
    assert numbers == ["frame 1", "frame 2", "frame 3", "frame 4", "frame 1"]
    assert shots[1].frame is not None
    np.testing.assert_array_equal(shots[1].frame.rgb, frames[1][1].rgb)
    assert reel.move("next").name.startswith("frame 2") and reel.move("first").name.startswith("frame 1")
    with pytest.raises(ParameterError, match="read forward"):
        reel.move("previous")
    reel.close()


def test_a_page_shows_a_bag_and_plays_it(bag: Path) -> None:
    pytest.importorskip("starlette", reason="the packages of requirements/web.txt are not installed here")
    from web_server import Page, served

    from molmo_ros import Grounder
    from molmo_ros.web.recorded import RecordedSource

    grounder = Grounder.load()
    with served(RecordedSource(BagReel(str(bag)), grounder)) as (access, _), Page(access) as page:
        page.has("reel", lambda reel: reel["text"].startswith("frame 1"))
        assert page.request("track", BOWL)["success"]
        page.request("move", "play")
        page.has("answer", lambda answer: answer["following"] and len(answer["targets"]) == 1)
        page.has("reel", lambda reel: reel["playing"] and not reel["text"].startswith("frame 1"))
        page.request("move", "pause")
        page.has("reel", lambda reel: not reel["playing"])
    grounder.close()
