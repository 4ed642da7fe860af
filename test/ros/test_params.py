"""The settings as ROS parameters: described, ranged, and refused in words when they are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.node import Node
from rclpy.parameter import Parameter

from molmo_ros.errors import ParameterError
from molmo_ros.ros.config import NodeConfig, SimCameraConfig, spec_of
from molmo_ros.ros.params import NODE_OPTIONS, declare

ROOT = Path(__file__).parents[2]


@pytest.fixture
def node(context: None) -> Iterator[Node]:
    node = Node("params_test", **NODE_OPTIONS)
    yield node
    node.destroy_node()


def declared(**overrides: Any) -> tuple[Node, NodeConfig, list[NodeConfig]]:
    values = [Parameter(name, value=value) for name, value in overrides.items()]
    node, changes = Node("params_test", parameter_overrides=values, **NODE_OPTIONS), []
    return node, declare(node, NodeConfig, changes.append), changes


def test_every_setting_is_a_described_parameter(node: Node) -> None:
    declare(node, NodeConfig, lambda config: None)
    for setting in fields(NodeConfig):
        found, spec = node.describe_parameter(setting.name), spec_of(setting)
        assert found.description.startswith(spec.description)
        assert found.read_only == spec.read_only
        if spec.low is not None and isinstance(setting.default, float):
            assert found.floating_point_range[0].to_value == spec.high
        elif spec.low is not None:
            assert found.integer_range[0].to_value == spec.high


def test_defaults_are_those_of_the_config(node: Node) -> None:
    config = declare(node, NodeConfig, lambda config: None)
    assert config == NodeConfig()


def test_override_is_taken(context: None) -> None:
    node, config, _ = declared(timeout_s=7.5, cameras=["front", "wrist"])
    assert (config.timeout_s, config.cameras) == (7.5, ("front", "wrist"))
    node.destroy_node()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"timeout_s": 1e6}, ["timeout_s", "0.05 to 600 s"]),
        ({"timeout_s": "soon"}, ["timeout_s", "float"]),
        ({"queue_size": 0}, ["queue_size", "1 to 100"]),
        ({"runtime": "magic"}, ["runtime", "auto"]),
        ({"checkpont": "tiny"}, ["checkpont", "checkpoint"]),
    ],
)
def test_wrong_override_ends_the_start_with_the_range(
    context: None, overrides: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ParameterError) as caught:
        declared(**overrides)
    for word in words:
        assert word in str(caught.value)


def test_change_at_run_time_is_checked(context: None) -> None:
    node, _, changes = declared()
    good = node.set_parameters([Parameter("max_frame_age_s", value=3.0)])[0]
    assert good.successful
    assert changes[-1].max_frame_age_s == 3.0
    bad = node.set_parameters([Parameter("max_frame_age_s", value=1e9)])[0]
    assert not bad.successful
    assert changes[-1].max_frame_age_s == 3.0
    for name, value in (("checkpoint", "other"), ("queue_size", 9)):
        assert not node.set_parameters([Parameter(name, value=value)])[0].successful
    node.destroy_node()


def test_several_changes_do_not_undo_each_other(context: None) -> None:
    node, _, changes = declared()
    node.set_parameters([Parameter("max_frame_age_s", value=3.0)])
    node.set_parameters([Parameter("frame_wait_s", value=4.0)])
    assert (changes[-1].max_frame_age_s, changes[-1].frame_wait_s) == (3.0, 4.0)
    node.destroy_node()


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_parameter_files_hold_known_settings_only(path: Path) -> None:
    kinds = {"molmo": NodeConfig, "sim_camera": SimCameraConfig}
    for node_name, content in yaml.safe_load(path.read_text()).items():
        kind = kinds[node_name.strip("/*")]
        names = {setting.name for setting in fields(kind)}
        assert set(content["ros__parameters"]) <= names | {"use_sim_time"}


def test_a_dump_of_all_parameters_starts_the_same_node(context: None, tmp_path: Path) -> None:
    """What ``ros2 param dump`` writes, by the same services, is a parameter file that the node takes."""
    node, config, _ = declared(timeout_s=7.5, cameras=["front", "wrist"], max_targets=3, target_frame="map")
    names = [name for name in node.get_parameters_by_prefix("") if not name.startswith("qos_overrides")]
    values = {
        p.name: list(p.value) if isinstance(p.value, tuple) else p.value for p in node.get_parameters(names)
    }
    values = {n: list(v) if hasattr(v, "tolist") or isinstance(v, tuple) else v for n, v in values.items()}
    path = tmp_path / "dump.yaml"
    path.write_text(yaml.safe_dump({"/params_test": {"ros__parameters": values}}))
    node.destroy_node()
    again = Node("params_test", cli_args=["--ros-args", "--params-file", str(path)], **NODE_OPTIONS)
    assert vars(declare(again, NodeConfig, lambda config: None)) == vars(config)
    again.destroy_node()
