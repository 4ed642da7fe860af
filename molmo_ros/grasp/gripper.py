"""A parallel gripper as boxes: two fingers and a palm, read from a YAML file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from molmo_ros.errors import ParameterError
from molmo_ros.untrusted import read_yaml

PRESETS = Path(__file__).parent.parent / "assets" / "grippers"
_LONGEST_M = 1.0  # a larger number must be in millimetres


@dataclass(frozen=True)
class Gripper:
    """Sizes in m, in the grasp frame: z approach, y closing, x = y cross z, origin between the fingertips.

    Fingers fill finger_width along x, finger_thickness along y and finger_length along z, back from the tips;
    pad_length of that is the gripping surface. palm (x, y, z) is the box behind them. max_opening is between
    the pads. flange_to_tips is the distance from the robot's flange to the grasp origin.
    """

    name: str
    max_opening: float
    finger_length: float
    finger_width: float
    finger_thickness: float
    pad_length: float
    palm: tuple[float, float, float]
    flange_to_tips: float

    @staticmethod
    def load(name_or_path: str | Path) -> Gripper:
        """Read a preset by name (see `preset_names`) or a YAML file by path.

        Raises: ParameterError if there is no such file, or a size is missing, unknown or impossible.
        """
        path = Path(name_or_path).expanduser()
        if path.suffix not in (".yaml", ".yml"):
            if str(name_or_path) not in preset_names():
                raise ParameterError(
                    f"There is no gripper {str(name_or_path)!r}; choose {', '.join(preset_names())}, "
                    "or give a YAML file."
                )
            path = PRESETS / f"{name_or_path}.yaml"
        return _from_mapping(_read(path), path)


def preset_names() -> tuple[str, ...]:
    """Return the names of the grippers that come with the package."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except OSError as error:
        raise ParameterError(f"Cannot read {path}: {error.strerror}; give a gripper YAML file.") from error
    except ValueError as error:
        raise ParameterError(f"{path} is not YAML ({error}); fix that line.") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path} holds no mapping; copy one of {PRESETS} and change the sizes.")
    return content


def _from_mapping(content: dict[str, Any], path: Path) -> Gripper:
    wanted = {field.name for field in fields(Gripper)}
    if content.keys() != wanted:
        missing, unknown = sorted(wanted - content.keys()), sorted(content.keys() - wanted, key=str)
        raise ParameterError(f"{path}: missing {missing}, unknown {unknown}; give exactly {sorted(wanted)}.")
    values = dict(content)
    palm = values.pop("palm")
    if not isinstance(palm, list) or len(palm) != 3:
        raise ParameterError(f"{path}: palm is {palm!r}; give [x, y, z] in metres.")
    sizes = {key: _metres(path, key, value) for key, value in values.items() if key != "name"}
    x, y, z = (_metres(path, "palm", value) for value in palm)
    if sizes["pad_length"] > sizes["finger_length"]:
        raise ParameterError(f"{path}: pad_length exceeds finger_length; the pad is part of the finger.")
    return Gripper(name=str(values["name"]), palm=(x, y, z), **sizes)


def _metres(path: Path, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < _LONGEST_M:
        raise ParameterError(f"{path}: {key} is {value!r}; give metres between 0 and {_LONGEST_M:g}.")
    return float(value)
