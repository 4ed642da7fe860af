"""``--out FILE.mcap`` and ``--out FILE.rrd``: read back by the libraries of Foxglove and of Rerun."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bags import TF, Entry, Recorder

from molmo_ros import Grounder
from molmo_ros.cli import main
from molmo_ros.datatypes import Grounding, RgbdFrame
from molmo_ros.recording import output

pytest.importorskip("rosbags", reason='rosbags is not installed: pip install ".[bag]"')

ROOT = Path(__file__).parents[1]
LAYOUT = ROOT / "config" / "molmo.foxglove.json"
SEED, BOWL, ABSENT = 0, "the white bowl", "the blue banana"
START, STEP = 1_700_000_000_123_456_789, 100_000_000
DOWN = (1.0, 0.0, 0.0, 0.0)  # half a turn about x
Read = dict[str, list[tuple[int, Any]]]


@pytest.fixture(scope="module")
def frame() -> RgbdFrame:
    from molmo_ros.sim import SimCamera

    return SimCamera(SEED).frame()


@pytest.fixture(scope="module")
def found(frame: RgbdFrame) -> Grounding:
    grounder = Grounder.load()
    try:
        return grounder.grasp(frame, BOWL)
    finally:
        grounder.close()


@pytest.fixture(scope="module")
def bag(frame: RgbdFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames, the second of which cannot be used; the camera looks down from 1 m over the base."""
    record = Recorder()
    entries = record.camera([(START + i * STEP, frame) for i in range(4)])
    bad = record.image(np.zeros((480, 640), np.uint8), "bayer_rggb8", START + STEP)
    entries[3] = Entry(START + STEP, entries[3].topic, entries[3].kind, bad)
    pose = record.transform("base", "optical", (0, 0, 1), DOWN, START - 1)
    entries.append(Entry(START - 1, "/tf_static", TF, pose))
    return record.write(tmp_path_factory.mktemp("bags") / "bag", entries)


def read_mcap(path: Path) -> Read:
    """topic -> (time, message), decoded by Foxglove's reader with nothing but the schemas in the file."""
    pytest.importorskip("mcap_ros2", reason="mcap-ros2-support is not installed here")
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    read: Read = {}
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        for schema, channel, message, decoded in reader.iter_decoded_messages():
            assert schema is not None and schema.encoding == "ros2msg" and channel.message_encoding == "cdr"
            assert mcap_topics()[channel.topic] == schema.name
            read.setdefault(channel.topic, []).append((message.log_time, decoded))
    return read


def mcap_topics() -> dict[str, str]:
    from molmo_ros.recording.mcap import TOPICS

    return TOPICS


def test_an_mcap_holds_what_the_node_publishes(frame: RgbdFrame, found: Grounding, tmp_path: Path) -> None:
    output.save_answer(tmp_path / "a.mcap", frame, found)
    read = read_mcap(tmp_path / "a.mcap")
    assert set(read) == set(mcap_topics()) - {"/tf"}  # nothing to transform
    assert all(len(messages) == 1 for messages in read.values())
    message = {topic: messages[0][1] for topic, messages in read.items()}
    pixels = np.frombuffer(message["/image"].data, np.uint8).reshape(frame.rgb.shape)
    np.testing.assert_array_equal(pixels, frame.rgb)
    depth = np.frombuffer(message["/depth"].data, np.uint16).reshape(frame.depth.shape) / 1000
    np.testing.assert_allclose(depth, np.nan_to_num(frame.depth), atol=0.00051)
    np.testing.assert_array_equal(message["/camera_info"].k, frame.K.ravel())
    assert message["/molmo/annotated"].encoding == "rgb8" and message["/molmo/annotated"].width == 640

    (target,) = found.targets
    (told,) = message["/molmo/targets"].targets
    assert (message["/molmo/targets"].query, told.point.label, told.status) == (BOWL, "white bowl", 0)
    assert target.grasp is not None and target.segment is not None and target.position is not None
    np.testing.assert_array_equal([told.position.x, told.position.y, told.position.z], target.position)
    pose = message["/molmo/grasp_pose"].pose
    np.testing.assert_array_equal(
        [pose.position.x, pose.position.y, pose.position.z], target.grasp.pose.position
    )
    assert message["/molmo/object_points"].width == len(target.segment.cloud_m)
    assert message["/molmo/object_points"].header.frame_id == frame.frame_id
    shown = message["/molmo/markers"].markers
    names = {marker.ns for marker in shown}
    assert names == {"", "label", "uncertainty", "object", "gripper", "approach"}
    assert len({marker.id for marker in shown}) == len(shown) and shown[0].action == 3
    (status,) = message["/diagnostics"].status
    assert {"grasp_ms", "vision_ms"} <= {pair.key for pair in status.values}


def test_a_replay_writes_all_formats_in_one_go(bag: Path, tmp_path: Path) -> None:
    names = ["t.jsonl", "t.mcap"]
    files = [word for name in names for word in ("--out", str(tmp_path / name))]
    more = ["--every", "1", "--target-frame", "base", "--film", str(tmp_path / "f.png")]
    assert main(["replay", str(bag), "--query", BOWL, *files, *more]) == 0
    records = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    read = read_mcap(tmp_path / "t.mcap")
    stamps = [START + i * STEP for i in range(4)]
    assert [time for time, _ in read["/diagnostics"]] == stamps
    assert [message.status[0].level for _, message in read["/diagnostics"]] == [0, 2, 0, 0]
    assert "debayer" in read["/diagnostics"][1][1].status[0].message
    assert [time for time, _ in read["/image"]] == [stamps[0], *stamps[2:]]
    good = [record for record in records if "error" not in record]
    for (time, message), (_, tf), record in zip(read["/molmo/targets"], read["/tf"], good, strict=True):
        stamp = message.header.stamp
        assert stamp.sec * 10**9 + stamp.nanosec == time == record["stamp_ns"]
        assert message.header.frame_id == message.targets[0].header.frame_id == "base"
        place = message.targets[0].position
        np.testing.assert_array_equal([place.x, place.y, place.z], record["targets"][0]["position"])
        (transform,) = tf.transforms
        assert (transform.header.frame_id, transform.child_frame_id) == ("base", "optical")
        assert (transform.transform.translation.z, abs(transform.transform.rotation.x)) == (1.0, 1.0)


def test_an_mcap_can_be_replayed_again(
    frame: RgbdFrame, found: Grounding, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output.save_answer(tmp_path / "a.mcap", frame, found)
    files = ["--out", str(tmp_path / "b.jsonl"), "--film", str(tmp_path / "f.png")]
    topics = ["--image", "/image", "--depth", "/depth"]
    assert main(["replay", str(tmp_path / "a.mcap"), "--query", BOWL, *topics, *files]) == 0
    (record,) = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(record["targets"][0]["position"], found.targets[0].position, atol=0.002)


def test_what_is_absent_is_written_as_such(frame: RgbdFrame, tmp_path: Path) -> None:
    output.save_answer(tmp_path / "a.mcap", frame, Grounding(ABSENT, found_nothing(), (), {"total": 1.0}))
    read = read_mcap(tmp_path / "a.mcap")
    assert "/molmo/grasp_pose" not in read
    assert read["/molmo/targets"][0][1].targets == [] and read["/molmo/object_points"][0][1].width == 0
    assert [marker.action for marker in read["/molmo/markers"][0][1].markers] == [3]


def found_nothing() -> Any:
    from molmo_ros.datatypes import Answer

    return Answer("There are none.")


def test_names_folders_and_packages_that_are_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*args: str, status: int = 2) -> str:
        assert main(args) == status
        return capfd.readouterr().err

    assert ".mcap, .rrd" in told("demo", "--out", str(tmp_path / "a.bag"))
    assert "There is no folder" in told("demo", "--out", str(tmp_path / "none" / "a.mcap"))
    image = str(tmp_path / "i.png")
    assert ".png" in told("ground", image, "mug", "--out", str(tmp_path / "a.mcap"))  # no depth, no recording
    monkeypatch.setattr(output, "find_spec", lambda name: None)
    assert 'pip install ".[rerun]"' in told("demo", "--out", str(tmp_path / "a.rrd"), status=1)
    assert 'pip install ".[bag]"' in told("demo", "--out", str(tmp_path / "a.mcap"), status=1)
    assert not any(tmp_path.iterdir())


def test_a_recording_for_rerun(frame: RgbdFrame, found: Grounding, tmp_path: Path) -> None:
    pytest.importorskip("rerun.chunk", reason='rerun-sdk is not installed: pip install ".[rerun]"')
    from rerun.chunk import RrdReader

    path = tmp_path / "a.rrd"
    output.save_answer(path, frame, found)
    columns: dict[str, dict[str, Any]] = {}
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        columns.setdefault(chunk.entity_path, {}).update(zip(batch.schema.names, batch.columns, strict=True))
    (target,) = found.targets
    assert target.segment is not None and target.box is not None and target.position is not None
    names = {re.sub(r"_\d+$", "", name.removeprefix("/targets/1/")) for name in columns}
    assert {"label", "uncertainty", "object", "gripper", "approach"} <= names
    assert {"/camera", "/camera/image", "/camera/depth", "/camera/image/points", "/object"} <= set(columns)

    def value(entity: str, component: str) -> Any:
        (name,) = [name for name in columns[entity] if name.endswith(":" + component)]
        return columns[entity][name].to_pylist()[0]

    assert value("/query", "text") == [BOWL] and value("/answer", "text") == [found.answer.text]
    point = [target.point.x + 0.5, target.point.y + 0.5]
    np.testing.assert_allclose(value("/camera/image/points", "positions"), [point], atol=1e-3)
    np.testing.assert_allclose(value("/object", "positions"), target.segment.cloud_m, atol=1e-6)
    assert 50_000 < len(value("/scene", "positions")) == len(value("/scene", "colors")) <= 320 * 240
    (K,) = value("/camera", "image_from_camera")  # column by column
    np.testing.assert_allclose(np.reshape(K, (3, 3)).T, frame.K, atol=1e-4)
    depth = np.frombuffer(bytes(value("/camera/depth", "buffer")[0]), np.float32)
    np.testing.assert_array_equal(depth.reshape(frame.depth.shape), np.nan_to_num(frame.depth))
    box = next(name for name in columns if name.startswith("/targets/1/object"))
    np.testing.assert_allclose(value(box, "half_sizes"), [target.box.size / 2], atol=1e-6)
    rerun = Path(sys.executable).with_name("rerun")
    subprocess.run([rerun, "rrd", "verify", path], check=True, capture_output=True, timeout=60)


def test_a_replay_for_rerun_is_in_the_target_frame(bag: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun.chunk", reason='rerun-sdk is not installed: pip install ".[rerun]"')
    from rerun.chunk import RrdReader

    path, lines = tmp_path / "t.rrd", tmp_path / "t.jsonl"
    files = ["--out", str(path), "--out", str(lines), "--film", str(tmp_path / "f.png")]
    more = ["--every", "1", "--target-frame", "base"]
    assert main(["replay", str(bag), "--query", BOWL, *files, *more]) == 0
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    places, times, logs = [], [], 0
    for chunk in RrdReader(path).stream():
        batch = chunk.to_record_batch()
        if chunk.entity_path == "/targets/1/label_0":
            places += batch.column("Points3D:positions").to_pylist()
            times += batch.column("stamp").cast("int64").to_pylist()
        logs += chunk.num_rows if chunk.entity_path == "/log" else 0
    good = [record for record in records if "error" not in record]
    assert times == [record["stamp_ns"] for record in good] and logs == 1
    expected = [record["targets"][0]["position"] for record in good]
    np.testing.assert_allclose(np.array(places)[:, 0], expected, atol=1e-6)


def panels(node: Any) -> list[str]:
    """Names of all panels in the tree of a layout."""
    return [node] if isinstance(node, str) else [*panels(node["first"]), *panels(node["second"])]


def layout_topics() -> set[str]:
    text = LAYOUT.read_text()
    return set(re.findall(r'"(/[a-z_/]+)"', text))


def test_the_layout_fits_the_recording() -> None:
    layout = json.loads(LAYOUT.read_text())
    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
    kinds = {name.split("!")[0] for name in layout["configById"]}
    assert kinds == {"3D", "Image", "RawMessages", "DiagnosticSummary", "Publish"}
    assert layout_topics() - {"/molmo/query"} == set(mcap_topics()) - {"/tf"}  # a 3D panel finds tf by itself
