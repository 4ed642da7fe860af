"""Recorded frames with points: a folder is read, or refused with the fix, and the numbers are right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from toy_scene import make_frame

from molmo_ros import io
from molmo_ros.cli.entry import main
from molmo_ros.datatypes import GraspTarget, RgbdFrame
from molmo_ros.errors import FrameError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.sim import SimCamera
from molmo_ros.target import find_target
from molmo_ros.tools.objects import from_clouds
from molmo_ros.tools.objects.evaluate import evaluate, summary
from molmo_ros.tools.objects.layout import Labelled, read_folder


def _write(folder: Path, points: list[dict[str, Any]], **more: Any) -> Path:
    frame, _ = make_frame(160, 120)
    io.write_color(folder / "a_color.png", frame.rgb)
    io.write_depth(folder / "a_depth.png", frame.depth)
    io.write_camera_info(folder / "camera_info.yaml", frame.K, 160, 120, "eye")
    (folder / "a_points.json").write_text(json.dumps({"points": points, **more}), encoding="utf-8")
    return folder


def _simulated(folder: Path, seed: int = 1) -> Path:
    """A simulated frame with two targets that show well, and their outlines as polygons."""
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


def test_true_masks_are_planned_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "objects", "--data", str(_simulated(tmp_path)), "--true-mask", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["targets"] == 3  # the corner has no mask, and is asked for as ever
    assert result["iou"]["n"] == 2 and result["iou"]["p10"] == 1.0


def test_a_folder_is_read(tmp_path: Path) -> None:
    square = [[10, 20], [19, 20], [19, 29], [10, 29]]
    points = [
        {"name": "p", "x": 80, "y": 60, "polygon": square},
        {"name": "q", "x": 1, "y": 2, "expected": "refuse"},
    ]
    (one,) = read_folder(_write(tmp_path, points, up=[0, -2, 0]))
    assert one.name == "a" and one.frame.frame_id == "eye"
    np.testing.assert_allclose(one.up, [0, -1, 0])
    mask = one.points[0].mask
    assert mask is not None and mask.sum() == 100 and mask[20, 10] and mask[29, 19]
    assert [p.refuse for p in one.points] == [False, True]


def test_masks_come_from_an_image_of_labels(tmp_path: Path) -> None:
    points = [{"name": "p", "x": 80, "y": 60, "label": 3}, {"name": "q", "x": 1, "y": 2}]
    folder = _write(tmp_path, points)
    with pytest.raises(FrameError, match="there is no a_labels"):
        list(read_folder(folder))
    labels = np.zeros((120, 160), dtype=np.uint8)
    labels[50:70, 70:90] = 3
    cv2.imwrite(str(folder / "a_labels.png"), labels)
    (one,) = read_folder(folder)
    np.testing.assert_array_equal(one.points[0].mask, labels == 3)
    assert one.points[1].mask is None
    cv2.imwrite(str(folder / "a_labels.png"), np.zeros_like(labels))
    with pytest.raises(FrameError, match="no pixel has the label 3"):
        list(read_folder(folder))
    cv2.imwrite(str(folder / "a_labels.png"), labels[:60])
    with pytest.raises(FrameError, match="no 160x120 image"):
        list(read_folder(folder))


def test_a_grasp_on_another_thing_is_counted(tmp_path: Path) -> None:
    """The same grasp, and a label that says that what it holds is something else."""
    folder = _simulated(tmp_path)
    gripper = Gripper.load("franka_hand")

    def find(frame: RgbdFrame, label: Labelled, up: Any) -> GraspTarget:
        return find_target(frame, replace(label, x=first.x, y=first.y).point, gripper, up)

    (one,) = read_folder(folder)
    first, second, _ = one.points
    results = [result for _, result in evaluate([one], find, gripper)]
    assert [result.another for result in results] == ["", first.name, ""]
    assert second.mask is not None
    swapped = replace(one, points=(replace(first, mask=second.mask), replace(second, mask=first.mask)))
    assert [result.another for _, result in evaluate([swapped], find, gripper)] == [second.name, ""]
    assert len(summary(results)["sent_on_another_thing"]) == 1


CLOUD = """# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS label x y z rgba
SIZE 4 4 4 4 4
TYPE U F F F U
COUNT 1 1 1 1 1
WIDTH {width}
HEIGHT {height}
VIEWPOINT 0 0 0 1 0 0 0
POINTS {count}
DATA ascii
"""


def test_labelled_clouds_become_such_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table 1 m away, with two parts of one thing and a hole."""
    pytest.importorskip("open3d")
    width, height, fx, cx, fy, cy = 64, 48, 52.5, 31.5, 50.0, 23.0
    label = np.ones((height, width), dtype=int)
    label[5:40, 10:30], label[5:40, 32:40], label[:, 50:] = 20, 21, 0
    z = np.where(label == 0, np.nan, np.where(label == 1, 1.0, 0.9))
    v, u = np.mgrid[:height, :width]
    rows = np.stack([label, (u - cx) / fx * z, (v - cy) / fy * z, z, np.full(z.shape, 0xFF8040)], axis=-1)
    text = [f"{a:.0f} {b:.6f} {c:.6f} {d:.6f} {e:.0f}" for a, b, c, d, e in rows.reshape(-1, 5)]
    clouds = tmp_path / "clouds"
    clouds.mkdir()
    head = CLOUD.format(width=width, height=height, count=width * height)
    (clouds / "one.pcd").write_text(head + "\n".join(text) + "\n")
    flat = CLOUD.format(width=width * height, height=1, count=width * height)
    (clouds / "two.pcd").write_text(flat + "\n".join(text) + "\n")
    (clouds / "three.pcd").write_bytes(b"no cloud\nat all\n")
    assert from_clouds.main([str(clouds), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "two.pcd is 3072x1" in said and "three.pcd tells no width and height" in said
    (one,) = read_folder(tmp_path / "out")
    np.testing.assert_allclose(one.frame.K, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], atol=1e-3)
    np.testing.assert_allclose(one.frame.depth, z, atol=6e-4)
    assert one.frame.rgb[20, 20].tolist() == [0xFF, 0x80, 0x40]
    (thing,) = one.points
    np.testing.assert_array_equal(thing.mask, label // 10 == 2)
    assert 15 < thing.x < 25 and 10 < thing.y < 35  # in its larger part


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
