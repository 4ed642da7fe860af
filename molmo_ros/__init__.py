"""Text query in, grasp target out: Molmo's pointing, lifted to 3D.

``from molmo_ros import Grounder`` is the way in without ROS. The import is lazy, so that
``import molmo_ros.msg`` (the generated messages live in the same package) stays cheap.
"""

from __future__ import annotations

from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

from molmo_ros import telemetry

if TYPE_CHECKING:
    from molmo_ros.pipeline import Grounder as Grounder

# A source tree or a pip installation that comes first on the path still finds the messages that colcon built.
__path__ = extend_path(__path__, __name__)
telemetry.switch_off()
__version__ = "0.2.0"
__all__ = ["Grounder"]


def __getattr__(name: str) -> Any:
    """Import ``Grounder`` when it is first asked for (PEP 562)."""
    if name == "Grounder":
        from molmo_ros.pipeline import Grounder

        return Grounder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
