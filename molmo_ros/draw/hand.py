"""The gripper as solids, in the grasp frame: z approaches, y closes, origin between the fingertips."""

from __future__ import annotations

import numpy as np

from molmo_ros.draw.solids import METAL, PAD, SHELL, Solid, box, cone, taper
from molmo_ros.grasp.gripper import Gripper

FLANGE_M = 0.012  # length of the robot's flange that is drawn behind the palm


def hand_length(gripper: Gripper) -> float:
    """Return how far the hand reaches back from the fingertips, in m."""
    return gripper.finger_length + gripper.palm[2] + FLANGE_M


def hand_solids(gripper: Gripper, opening: float) -> list[Solid]:
    """Return fingers with pads, palm and flange, with the pads at a distance of opening m."""
    x, y, depth = gripper.palm
    back = -gripper.finger_length
    top, rail, shoulder = back - depth, back - 0.14 * depth, back - 0.62 * depth
    flange = min(0.6 * x, 0.4 * y)
    return [
        *_finger(gripper, opening / 2, 1),
        *_finger(gripper, opening / 2, -1),
        taper((0.86 * x, 0.97 * y), (0.86 * x, 0.97 * y), (rail, back), PAD),
        taper((x, y), (x, y), (shoulder, rail), SHELL),
        taper((0.9 * x, 0.66 * y), (x, y), (top, shoulder), SHELL),
        cone(np.array([0.0, 0.0, top - FLANGE_M]), np.array([0.0, 0.0, top]), flange, flange, PAD),
    ]


def _finger(gripper: Gripper, inner: float, side: int) -> list[Solid]:
    half, pad = gripper.finger_width / 2, 0.3 * gripper.finger_thickness
    back, outer = -gripper.finger_length, inner + gripper.finger_thickness
    carriage = min(0.62 * back, -gripper.pad_length)
    return [
        _slab(side, half, (inner + pad, outer), (back, 0.0)),
        _slab(side, 0.9 * half, (inner, inner + pad), (-gripper.pad_length, 0.0), pad=True),
        _slab(side, 1.15 * half, (inner + pad, outer + 0.5 * pad), (back, carriage)),
    ]


def _slab(
    side: int, half_x: float, y: tuple[float, float], z: tuple[float, float], pad: bool = False
) -> Solid:
    low, high = sorted((side * y[0], side * y[1]))
    return box((-half_x, low, z[0]), (half_x, high, z[1]), PAD if pad else METAL)
