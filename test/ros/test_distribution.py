"""What differs between the distributions of ROS 2."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from molmo_ros.ros.distribution import on_this_machine, received_ns

NEWER = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


@pytest.mark.parametrize(
    ("env", "added"),
    [
        ({"ROS_DISTRO": "humble"}, {"ROS_LOCALHOST_ONLY": "1"}),
        ({"ROS_DISTRO": "humble", "ROS_LOCALHOST_ONLY": "0"}, {}),
        ({"ROS_DISTRO": "jazzy"}, NEWER),
        ({"ROS_DISTRO": "kilted", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, {}),
        ({}, NEWER),
    ],
)
def test_discovery_stays_on_this_machine_unless_told_otherwise(
    env: dict[str, str], added: dict[str, str]
) -> None:
    assert on_this_machine(env) == added


@pytest.mark.parametrize("value", [12, 0, None])
def test_arrival_is_read_from_a_dict_and_from_an_object(value: int | None) -> None:
    for info in ({"received_timestamp": value}, SimpleNamespace(received_timestamp=value)):
        assert received_ns(info) == (value or 0)
    assert received_ns({}) == 0
