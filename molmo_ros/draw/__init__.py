"""Pictures of what was found: the annotated image, the 3D view, and both side by side.

NumPy and Pillow only: no GL, no display, so that a robot's headless computer draws the same picture.
"""

from __future__ import annotations

from molmo_ros.draw.annotate import annotate
from molmo_ros.draw.picture import picture
from molmo_ros.draw.view3d import view3d

__all__ = ["annotate", "picture", "view3d"]
