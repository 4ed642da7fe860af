from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from molmo_ros.errors import ParameterError
from molmo_ros.grasp.gripper import PRESETS, Gripper, preset_names


def test_the_presets_are_there() -> None:
    assert preset_names() == ("franka_hand", "robotiq_2f_140", "robotiq_2f_85")
    assert [Gripper.load(name).max_opening for name in preset_names()] == [0.080, 0.140, 0.085]
    assert all(Gripper.load(name).name == name for name in preset_names())


def test_a_gripper_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Gripper.load("franka_hand").max_opening = 1.0  # type: ignore[misc]


def test_an_own_file_is_read(tmp_path: Path) -> None:
    text = (PRESETS / "franka_hand.yaml").read_text().replace("0.080 ", "0.055 ")
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert Gripper.load(path).max_opening == 0.055
    assert Gripper.load(str(path)).palm == (0.063, 0.204, 0.058)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("max_opening: 0.080", "max_opening: 80", "metres between 0 and 1"),
        ("max_opening: 0.080", "max_opening: wide", "max_opening is 'wide'"),
        ("max_opening: 0.080", "max_opening: -0.1", "metres"),
        ("max_opening: 0.080", "max_openning: 0.08", "missing .*max_opening.* unknown .*max_openning"),
        ("palm: [0.063, 0.204, 0.058]", "palm: [0.063, 0.204]", "palm"),
        ("pad_length: 0.018", "pad_length: 0.080", "exceeds"),
        ("name: franka_hand", "name: [", "not YAML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, old: str, new: str, word: str) -> None:
    text = (PRESETS / "franka_hand.yaml").read_text()
    assert old in text
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ParameterError, match=word):
        Gripper.load(path)


def test_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="franka_hand, robotiq_2f_140, robotiq_2f_85"):
        Gripper.load("three_fingers")
    with pytest.raises(ParameterError, match="Cannot read"):
        Gripper.load(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ParameterError, match="no mapping"):
        Gripper.load(tmp_path / "list.yaml")
