"""The gripper as solids, in the grasp frame: z approaches, y closes, origin between the fingertips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmo_ros.draw.solids import METAL, PAD, SHELL, Solid, box, cone, taper


@dataclass(frozen=True)
class Hand:
    """What is drawn of a parallel gripper, in m; the defaults are those of the Franka hand.

    Fingers have their length along z, width along x, thickness along y; the palm (x, y, z) lies behind them.
    """

    finger_length: float = 0.054
    finger_width: float = 0.020
    finger_thickness: float = 0.012
    palm: tuple[float, float, float] = (0.063, 0.204, 0.066)

    @property
    def length(self) -> float:
        """Return how far the hand reaches back from the fingertips."""
        return self.finger_length + self.palm[2]

    def solids(self, opening: float) -> list[Solid]:
        """Return fingers with pads, palm and flange, with the pads at a distance of opening m."""
        back, top = -self.finger_length, -self.length
        x, y, depth = self.palm
        rail, shoulder = back - 0.14 * depth, back - 0.62 * depth
        flange = min(0.6 * x, 0.4 * y)
        wrist = np.array([0.0, 0.0, top])
        return [
            *self._finger(opening / 2, 1),
            *self._finger(opening / 2, -1),
            taper((0.86 * x, 0.97 * y), (0.86 * x, 0.97 * y), (rail, back), PAD),
            taper((x, y), (x, y), (shoulder, rail), SHELL),
            taper((0.9 * x, 0.66 * y), (x, y), (top, shoulder), SHELL),
            cone(wrist - [0, 0, 0.012], wrist, flange, flange, PAD),
        ]

    def _finger(self, inner: float, side: int) -> list[Solid]:
        half, pad = self.finger_width / 2, 0.3 * self.finger_thickness
        back, outer = -self.finger_length, inner + self.finger_thickness
        return [
            _slab(side, half, (inner + pad, outer), (back, 0.0)),
            _slab(side, 0.9 * half, (inner, inner + pad), (0.45 * back, 0.0), pad=True),
            _slab(side, 1.15 * half, (inner + pad, outer + 0.5 * pad), (back, 0.62 * back)),
        ]


def _slab(
    side: int, half_x: float, y: tuple[float, float], z: tuple[float, float], pad: bool = False
) -> Solid:
    low, high = sorted((side * y[0], side * y[1]))
    return box((-half_x, low, z[0]), (half_x, high, z[1]), PAD if pad else METAL)
