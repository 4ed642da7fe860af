"""Text query in, grasp target out: Molmo's pointing, lifted to 3D.

``from molmo_ros import Grounder, RgbdFrame`` is the way in without ROS. The imports are lazy, so that
``import molmo_ros.msg`` (the generated messages live in the same package) stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

from molmo_ros import telemetry

if TYPE_CHECKING:
    from molmo_ros.datatypes import GraspTarget as GraspTarget
    from molmo_ros.datatypes import RgbdFrame as RgbdFrame
    from molmo_ros.datatypes import TargetStatus as TargetStatus
    from molmo_ros.grasp.gripper import Gripper as Gripper
    from molmo_ros.pipeline import Grounder as Grounder

# A source tree or a pip installation that comes first on the path still finds the messages that colcon built.
__path__ = extend_path(__path__, __name__)
telemetry.switch_off()
__version__ = "0.2.0"
__all__ = ["GraspTarget", "Gripper", "Grounder", "RgbdFrame", "TargetStatus"]

_HOMES = {
    "Grounder": "molmo_ros.pipeline",
    "Gripper": "molmo_ros.grasp.gripper",
    "GraspTarget": "molmo_ros.datatypes",
    "RgbdFrame": "molmo_ros.datatypes",
    "TargetStatus": "molmo_ros.datatypes",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
