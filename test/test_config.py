"""Every setting is described once, and nothing outside its range gets in."""

from __future__ import annotations

from dataclasses import fields

import pytest

from molmo_ros.errors import ParameterError
from molmo_ros.ros.config import NodeConfig, SimCameraConfig, check_value, make_config, spec_of

KINDS = (NodeConfig, SimCameraConfig)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_lie_within_their_own_limits(kind: type[NodeConfig | SimCameraConfig]) -> None:
    for setting in fields(kind):
        check_value(setting.name, setting.default, spec_of(setting))


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_described_and_every_number_has_a_range(
    kind: type[NodeConfig | SimCameraConfig],
) -> None:
    for setting in fields(kind):
        spec = spec_of(setting)
        assert spec.description.endswith("."), setting.name
        if isinstance(setting.default, (int, float)) and not isinstance(setting.default, bool):
            assert spec.low is not None, setting.name
            assert spec.high is not None, setting.name
            assert spec.low < spec.high, setting.name


def test_seconds_say_so() -> None:
    for setting in fields(NodeConfig):
        if setting.name.endswith("_s"):
            assert spec_of(setting).unit == "s", setting.name


def test_out_of_range_is_refused_with_the_range() -> None:
    with pytest.raises(ParameterError, match=r"sync_slop_s is 2\.0; it must be 0 to 1 s\."):
        make_config(NodeConfig, {"sync_slop_s": 2.0})


def test_unknown_choice_is_refused_with_the_choices() -> None:
    with pytest.raises(ParameterError, match="choose one of auto, onnx"):
        make_config(NodeConfig, {"runtime": "tensorflow"})


def test_unknown_name_is_refused_with_the_names() -> None:
    with pytest.raises(ParameterError, match="max_frame_age_s"):
        make_config(NodeConfig, {"max_frame_age": 1.0})


def test_nan_is_out_of_range() -> None:
    with pytest.raises(ParameterError):
        make_config(NodeConfig, {"timeout_s": float("nan")})
