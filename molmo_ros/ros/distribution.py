"""What differs between Humble, Jazzy and Kilted; docs/distributions.md has the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def on_this_machine(env: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that keep discovery on this machine, except those that ``env`` has already.

    Humble knows only ROS_LOCALHOST_ONLY; from Jazzy on it would override its successor, with a warning.
    """
    if env.get("ROS_DISTRO") == "humble":
        wanted = {"ROS_LOCALHOST_ONLY": "1"}
    else:
        wanted = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    return {name: value for name, value in wanted.items() if name not in env}


def received_ns(info: Any) -> int:
    """When the middleware received the message of this info, on the system's clock; 0 if it does not say.

    The info is a dict, or in later distributions an object with the same names.
    """
    value = info.get("received_timestamp", 0) if isinstance(info, dict) else info.received_timestamp
    return int(value or 0)
