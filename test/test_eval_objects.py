"""Recorded frames with points: a folder is read, or refused with the fix, and the numbers are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_scene import make_frame

from molmo_ros import io
from molmo_ros.cli.entry import main
from molmo_ros.errors import FrameError
from molmo_ros.sim import SimCamera
from molmo_ros.tools.objects.layout import read_folder


def _write(folder: Path, points: list[dict[str, Any]], **more: Any) -> Path:
    frame, _ = make_frame(160, 120)
    io.write_color(folder / "a_color.png", frame.rgb)
    io.write_depth(folder / "a_depth.png", frame.depth)
    io.write_camera_info(folder / "camera_info.yaml", frame.K, 160, 120, "eye")
    (folder / "a_points.json").write_text(json.dumps({"points": points, **more}), encoding="utf-8")
    return folder


def _simulated(folder: Path, seed: int = 1) -> Path:
    """A simulated frame with two targets that show well, and their outlines as polygons."""
    import cv2

    camera = SimCamera(seed)
    frame, ids = camera.frame(), camera.truth.ids
    io.write_color(folder / "scene_color.png", frame.rgb)
    io.write_depth(folder / "scene_depth.png", frame.depth)
    io.write_camera_info(folder / "camera_info.yaml", frame.K, camera.width, camera.height, "eye")
    points = []
    sizes = np.bincount(ids.ravel())
    for i in np.argsort(-sizes[1:])[:2] + 1:
        mask = (ids == i).astype(np.uint8)
        inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
        y, x = np.unravel_index(np.argmax(inside), mask.shape)
        outline = max(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=len)[:, 0]
        points.append({"name": f"o{i}", "x": int(x), "y": int(y), "polygon": outline.tolist()})
    points.append({"name": "corner", "x": 1, "y": 478, "expected": "refuse"})
    (folder / "scene_points.json").write_text(json.dumps({"points": points}), encoding="utf-8")
    return folder


def test_the_command_gives_numbers_and_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["eval", "objects", "--data", str(_simulated(tmp_path)), "--out", str(sheet), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["targets"] == 3 and result["frames"] == 1
    assert sum(result["statuses"].values()) == 3
    assert result["iou"]["n"] == 2 and result["iou"]["mean"] > 0.75
    assert result["sent_though_refusal_expected"] == []
    for row in result["results"][:2]:
        assert row["distance_m"] is None or row["distance_m"] < 0.3
    assert io.read_color(sheet).shape[0] > 300


def test_a_folder_is_read(tmp_path: Path) -> None:
    square = [[10, 20], [19, 20], [19, 29], [10, 29]]
    points = [
        {"name": "p", "x": 80, "y": 60, "polygon": square},
        {"name": "q", "x": 1, "y": 2, "expected": "refuse"},
    ]
    (one,) = read_folder(_write(tmp_path, points, up=[0, -2, 0]))
    assert one.name == "a" and one.frame.frame_id == "eye"
    np.testing.assert_allclose(one.up, [0, -1, 0])
    mask = one.points[0].mask(120, 160)
    assert mask is not None and mask.sum() == 100 and mask[20, 10] and mask[29, 19]
    assert [p.refuse for p in one.points] == [False, True]


@pytest.mark.parametrize(
    ("points", "more", "told"),
    [
        ([{"name": "p", "x": 5}], {}, "give name, x, y"),
        ([{"name": "p", "x": 5, "y": 5, "colour": "red"}], {}, "give name, x, y"),
        ([{"name": "p", "x": 160, "y": 5}], {}, "outside of the 160x120 image"),
        ([{"name": "p", "x": "5", "y": 5}], {}, "give a number of pixels"),
        ([{"name": "p", "x": 5, "y": 5, "polygon": [[1, 2], [3, 4]]}], {}, "at least 3"),
        ([{"name": "p", "x": 5, "y": 5, "expected": "no"}], {}, "'refuse'"),
        ([], {"up": [0, 0, 0]}, "give a direction"),
    ],
)
def test_what_cannot_be_used_is_told(
    tmp_path: Path, points: list[dict[str, Any]], more: dict[str, Any], told: str
) -> None:
    with pytest.raises(FrameError, match=told):
        list(read_folder(_write(tmp_path, points, **more)))


def test_a_folder_without_points_is_told(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"no \*_points.json"):
        list(read_folder(tmp_path))
