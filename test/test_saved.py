"""Queries as files: what was saved is what eval objects and ground read, and a folder never overflows."""

from __future__ import annotations

import json
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_scene import make_frame

from molmo_ros import Grounder, io
from molmo_ros.cli.entry import main
from molmo_ros.datatypes import Answer, Grounding, ImagePoint
from molmo_ros.errors import AnswerError, FrameError
from molmo_ros.recording.saved import AnsweredQuery, SavedQueries
from molmo_ros.sim import SimCamera
from molmo_ros.tools.objects.layout import read_folder

SEED, GOOD = 0, "the white bowl"


def toy(query: str = "the red cube", x: float = 40.0) -> AnsweredQuery:
    frame, _ = make_frame(160, 120)
    point = ImagePoint(x, 30.0, "red cube", confidence=float("nan"))
    return AnsweredQuery(query, frame, Grounding(query, Answer("cube", (point,)), ()))


def some(folder: Path, count: int = 100, mb: float = 100.0) -> SavedQueries:
    return SavedQueries(folder, count, mb)


@pytest.fixture(scope="module")
def answered() -> AnsweredQuery:
    """The built-in model's answer on a simulated frame."""
    frame = SimCamera(SEED).frame()
    grounder = Grounder.load()
    found = grounder.grasp(frame, GOOD)
    grounder.close()
    return AnsweredQuery(GOOD, frame, found, up=np.array([0.0, -0.8, -0.6]))


def test_eval_objects_reads_what_was_saved(
    answered: AnsweredQuery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = some(tmp_path).save(answered)
    (one,) = read_folder(tmp_path)
    assert one.name == name and name.endswith("_the_white_bowl")
    np.testing.assert_array_equal(one.frame.rgb, answered.frame.rgb)
    np.testing.assert_allclose(one.frame.depth, answered.frame.depth, atol=0.0005 + 1e-6)
    np.testing.assert_allclose(one.frame.K, answered.frame.K)
    np.testing.assert_allclose(one.up, [0, -0.8, -0.6])
    assert main(["eval", "objects", "--data", str(tmp_path), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert answered.grounding is not None
    target = answered.grounding.targets[0]
    assert result["status"] == target.status.name == "OK"
    assert (result["x"], result["y"], result["name"]) == (target.point.x, target.point.y, "white bowl")


def test_ground_reads_what_was_saved(
    answered: AnsweredQuery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stem = str(tmp_path / some(tmp_path).save(answered))
    files = ["--depth", f"{stem}_depth.png", "--camera-info", f"{stem}_camera_info.yaml"]
    assert main(["ground", f"{stem}_color.png", GOOD, *files, "--json"]) == 0
    again, before = json.loads(capsys.readouterr().out), json.loads(Path(f"{stem}_answer.json").read_text())
    assert again["answer"] == before["answer"] and again["points"] == before["points"]
    assert before["targets"][0]["status"] == "OK" and before["code"] == ""
    assert io.read_color(f"{stem}_annotated.jpg").shape == answered.frame.rgb.shape


def test_a_failure_is_saved_with_its_error(tmp_path: Path) -> None:
    frame, _ = make_frame(160, 120)
    query = AnsweredQuery("it", frame, error=AnswerError("gibberish"))
    assert query.failed
    stem = tmp_path / some(tmp_path).save(query)
    answer = json.loads(Path(f"{stem}_answer.json").read_text())
    assert (answer["error"], answer["code"], answer["targets"]) == ("gibberish", "BAD_ANSWER", [])
    assert next(iter(read_folder(tmp_path))).points == ()


def test_a_point_at_the_edge_stays_in_the_image(tmp_path: Path) -> None:
    some(tmp_path).save(toy(x=159.4))
    (one,) = read_folder(tmp_path)
    assert one.points[0].x == 159.0


@pytest.mark.parametrize(
    "query", ["../../etc/passwd", "a/b\\c\0d", "..", "", "杯子", "x" * 5000, "-rf $(id)"]
)
def test_no_query_leads_out_of_the_folder(query: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    name = some(inside).save(toy(query))
    assert set("/\\.$-") & set(name) == set() and len(name) < 64
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert len(list(inside.iterdir())) == 6


def test_two_queries_in_one_second_are_two(tmp_path: Path) -> None:
    folder = some(tmp_path)
    assert len({folder.save(toy()) for _ in range(3)}) == 3
    assert len(list(read_folder(tmp_path))) == 3


def test_a_full_folder_is_told_and_nothing_is_deleted(tmp_path: Path) -> None:
    few = some(tmp_path, count=2)
    names = {few.save(toy()), few.save(toy())}
    with pytest.raises(FrameError, match="2 queries of at most 2"):
        few.save(toy())
    with pytest.raises(FrameError, match="MB; move them away"):
        some(tmp_path, mb=0.001).save(toy())
    assert {one.name for one in read_folder(tmp_path)} == names
    assert not list(tmp_path.glob(".saving_*"))


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path) -> None:
    """A limit on the size of files is as near to a full disk as a test gets without being root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    frame = replace(SimCamera(SEED).frame(), lens=None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(FrameError, match="Cannot write"):
            some(tmp_path).save(AnsweredQuery("it", frame))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FrameError, match="choose a folder you may write to"):
        some(tmp_path / "file" / "folder").save(toy())


def test_no_usable_target_is_a_failure(answered: AnsweredQuery) -> None:
    assert not answered.failed and toy().failed
