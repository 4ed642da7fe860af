"""Published layouts are read and scored end to end; a killed run goes on; the page shows what went wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_server import events, faulty_server, status

import molmo_ros
from molmo_ros.cli.entry import main
from molmo_ros.errors import FrameError, ParameterError
from molmo_ros.tools.points_eval.protocols import PROTOCOLS, DataSet
from molmo_ros.tools.points_eval.synthetic import write_all

IMAGES = 5


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each protocol; the first question of Point-Bench is about something else than its mask."""
    folder = tmp_path_factory.mktemp("published")
    write_all(folder, IMAGES)
    path = folder / "point-bench" / "data.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    entries[0]["user_input"] = "Point to the purple elephant."
    path.write_text(json.dumps([*entries, {"no": "mask"}]), encoding="utf-8")
    return folder


def _run(capsys: pytest.CaptureFixture[str], folder: Path, protocol: str, out: Path, *more: str) -> Any:
    args = ["eval", "points", "--data", str(folder / protocol), "--protocol", protocol, "--out", str(out)]
    code = main([*args, "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def _answers(out: Path) -> list[dict[str, Any]]:
    lines = (out / "answers-auto.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[1:]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_published_layout_is_scored(
    published: Path, protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = _run(capsys, published, protocol, tmp_path)
    run = result["precisions"]["auto"]
    assert code == 0 and run["examples"] == run["scored"] == IMAGES and not run["skipped_reasons"]
    assert run["scores"][PROTOCOLS[protocol].main] >= 0.75  # the built-in model on its own kind of scenes
    wrong = [row["key"] for row in _answers(tmp_path) if row["scores"][PROTOCOLS[protocol].main] < 0.99]
    assert run["failures"] == wrong  # and not those whose F1 is 1 but for rounding
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == result
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http" not in page  # nothing is fetched
    if protocol == "point-bench":
        assert run["failures"] == ["0"] and run["groups"]["affordable"] == 0
        assert run["groups"]["average"] == pytest.approx(0.8)
        assert "purple elephant" in page and page.count("data:image/jpeg;base64,") == 1


def test_a_killed_run_goes_on_where_it_was(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers-auto.jsonl"
    args = ["eval", "points", "--data", str(published / "countbench"), "--protocol", "countbench"]
    env = {**os.environ, "PYTHONPATH": str(Path(molmo_ros.__file__).parents[1])}
    command = [sys.executable, "-m", "molmo_ros.cli", *args, "--out", str(tmp_path)]
    with subprocess.Popen(command, env=env, cwd="/", stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (answers.is_file() and answers.read_text().count("\n") >= 3):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    kept = answers.read_text(encoding="utf-8").splitlines(keepends=True)
    answers.write_text("".join(kept[:3]) + kept[2][:20], encoding="utf-8")  # the last line was cut off
    marked = json.loads(kept[1]) | {"answer": "kept"}
    answers.write_text(answers.read_text().replace(kept[1], json.dumps(marked) + "\n"), encoding="utf-8")
    code, result = _run(capsys, published, "countbench", tmp_path)
    rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()[1:]]
    assert code == 0 and result["precisions"]["auto"]["scored"] == IMAGES
    assert [row["key"] for row in rows] == [str(i) for i in range(IMAGES)]
    assert rows[0]["answer"] == "kept" and rows[2]["answer"] != ""


def test_another_run_does_not_go_on_in_the_same_folder(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(capsys, published, "countbench", tmp_path, "--limit", "1")[0] == 0
    code, result = _run(capsys, published, "countbench", tmp_path, "--template", "Count! {label}")
    assert code == 2 and "another template" in result["error"]


def test_precisions_stand_side_by_side(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--limit", "1", "--precision", "fp32", "--compare", "int8")
    code, result = _run(capsys, published, "point-bench", tmp_path, *more)
    assert code == 0 and list(result["precisions"]) == ["fp32", "int8"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 2


def test_a_picture_that_changed_since_is_left_out_and_named(published: Path, tmp_path: Path) -> None:
    rows = pq.read_table(published / "pixmo-points" / "data").to_pylist()
    images = published / "pixmo-points" / "images"
    rows[0]["image_sha256"] = "0" * 64
    rows[1]["image_url"] = "https://example.org/gone.png"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-0.parquet")
    examples = list(DataSet("pixmo-points", tmp_path, images))
    assert "is not the picture" in examples[0].problem and "gone.png" in examples[1].problem
    assert examples[2].problem == "" and examples[2].rgb.shape == (240, 320, 3)
    truth = examples[2].truth
    for point, mask in zip(truth.points, truth.masks, strict=True):
        assert mask[int(point[1]), int(point[0])]


def test_a_folder_saved_by_datasets_is_read_too(published: Path, tmp_path: Path) -> None:
    """Its files are Arrow streams, a folder for each split; "image" is a path on the machine that made it."""
    (tmp_path / "validation").mkdir()
    table = pq.read_table(published / "pixmo-count" / "data")
    names = [str(next((published / "pixmo-count" / "images").iterdir()))] * len(table)
    table = table.drop_columns(["image_sha256"])
    table = table.append_column("image", pa.array([f"/else{n}" for n in names]))
    path = str(tmp_path / "validation" / "data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = DataSet("pixmo-count", tmp_path, published / "pixmo-count", split="validation")
    assert len(data) == IMAGES and all(e.problem == "" and e.truth.count > 0 for e in data)
    with pytest.raises(FrameError, match="split 'test'"):
        DataSet("pixmo-count", tmp_path)


def test_a_wrong_folder_is_told_with_the_fix(published: Path, tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="no column masks"):
        DataSet("pixmo-points", published / "pixmo-count")
    with pytest.raises(FrameError, match=r"no \*\.parquet"):
        DataSet("pixmo-count", tmp_path)
    with pytest.raises(FrameError, match=r"data\.json"):
        DataSet("point-bench", tmp_path)
    with pytest.raises(ParameterError, match="choose one of"):
        DataSet("other", tmp_path)


def test_a_name_that_leads_out_of_the_folder_is_refused(published: Path, tmp_path: Path) -> None:
    words = {"category": "x", "user_input": "y"}
    entry = {"image_filename": "a.png", "mask_filename": "../../../etc/passwd", **words}
    (tmp_path / "data.json").write_text(json.dumps([entry]), encoding="utf-8")
    assert "leads out of" in next(iter(DataSet("point-bench", tmp_path))).problem


def test_masks_of_a_row_keep_their_shape(published: Path) -> None:
    example = next(iter(DataSet("pixmo-points", published / "pixmo-points")))
    stored = pq.read_table(published / "pixmo-points" / "data").to_pylist()[0]["masks"]
    np.testing.assert_array_equal(example.truth.masks, np.array(stored, dtype=bool))


def test_a_model_on_a_server_is_scored(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers in JSON, which the official scorer does not know, count as they are read here."""
    examples = DataSet("point-bench", published / "point-bench")
    mask = next(e for e in examples if e.key == "1").truth.masks[0]
    y, x = np.argwhere(mask)[mask.sum() // 2]
    right = json.dumps([{"point": [round(1000 * (y + 0.5) / 240), round(1000 * (x + 0.5) / 320)]}])
    with faulty_server() as server:
        server.acts = [
            *2 * [status(200, json.dumps({"data": [{"id": "gemini-robotics-er"}]}))],
            events("[]"),
            events(right),
            events("It is at the left."),
        ]
        more = ("--runtime", "remote", "--remote-url", server.url, "--limit", "3")
        code, result = _run(capsys, published, "point-bench", tmp_path, *more)
    rows = [json.loads(line) for line in (tmp_path / "answers-auto.jsonl").read_text().splitlines()]
    assert code == 0 and result["precisions"]["auto"]["scored"] == 3
    assert [row["points"] == [] for row in rows[1:]] == [True, False, True]
    assert [row["scores"]["correct"] for row in rows[1:]] == [0.0, 1.0, 0.0]
