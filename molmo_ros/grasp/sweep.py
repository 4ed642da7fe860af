"""Which parts of the object and of its neighbours lie in the way of a hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo_ros.datatypes import Array, Index, Mask
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.perception.complete import Shape

# neither a stray depth point nor a single guessed one may veto a grasp; one of the object's own does, and so
# do two of a neighbour: a thin wall, like that of a bin, has no more in the way of a finger
HIT_SEEN, HIT_GUESSED, HIT_SCENE = 1.0, 0.4, 0.5
CLEARANCE_M = 0.001  # beside each finger, plus the pixel that a sensor loses at every outline
TRAVEL_M = 0.10  # from the pregrasp to the grasp
NEAR_M = 0.006  # nearer things are in the way if they are only a little larger than what was seen of them
LATERAL_M = 0.012  # how far recentring may shift the hand


def clearance(shape: Shape) -> float:
    """Return the clearance in m that is kept beside each finger."""
    return CLEARANCE_M + shape.pixel


@dataclass(frozen=True)
class Swept:
    """Every (hand, point) whose point lies in the strip that the fingers of that hand sweep.

    hand (T,) and point (T,) are indices, y (T,) and z (T,) m in the hand's frame; own (T,) marks points of
    the object, which come first, the rest are the scene's; weight (T,) is the weight of a hit, 1 vetoes.
    """

    hand: Index
    point: Index
    y: Array
    z: Array
    own: Mask
    weight: npt.NDArray[np.float32]

    @staticmethod
    def of(shape: Shape, rotation: Array, tips: Array, gripper: Gripper) -> Swept:
        """Collect them for hands of rotation (C,3,3) with their tips at (C,3) m."""
        room = clearance(shape)
        reach = gripper.max_opening / 2 + gripper.finger_thickness + LATERAL_M + 2 * room
        half = np.array([gripper.finger_width / 2 + room, reach])
        behind = -(gripper.finger_length + TRAVEL_M)
        hand, point, _, y, z = within(shape.solid, rotation, tips, half, behind, room)
        return Swept(hand, point, y, z, point < len(shape.points), weights(shape)[point])

    def by(self, which: Mask, shift: Array) -> Swept:
        """Leave only some of the hands (C,), each shifted by (C,) m along y."""
        number = np.cumsum(which) - 1
        keep = which[self.hand]
        hand = number[self.hand[keep]]
        y = self.y[keep] - shift[hand]
        return Swept(hand, self.point[keep], y, self.z[keep], self.own[keep], self.weight[keep])


def weights(shape: Shape) -> npt.NDArray[np.float32]:
    """Return the weight of a hit of each point (N+S,) of object and scene; 1 vetoes."""
    own = np.where(shape.seen, HIT_SEEN, HIT_GUESSED)
    return np.concatenate([own, np.full(len(shape.scene), HIT_SCENE)]).astype(np.float32)


def within(
    solid: npt.NDArray[np.float32],
    rotation: Array,
    tips: Array,
    half: Array,
    lowest: float,
    highest: float,
) -> tuple[Index, Index, Array, Array, Array]:
    """Find points of a solid (4,N) in a box about each hand: |x|, |y| below half (2,) m, z between two in m.

    Returns the pairs' hand, point, and x, y, z m in the hand's frame, (T,) each.
    """
    axes = rotation.transpose(2, 0, 1)  # [k] (C,3) the hands' k-th axes
    offset = -np.sum(axes * tips, axis=2, keepdims=True)
    x, y, z = (axis @ solid for axis in np.concatenate([axes, offset], axis=2).astype(np.float32))
    flat = np.flatnonzero(np.abs(x) < half[0])  # a hand is narrow: few remain
    y, z = y.ravel()[flat], z.ravel()[flat]
    inside = (np.abs(y) < half[1]) & (z > lowest) & (z < highest)
    flat, y, z = flat[inside], y[inside].astype(np.float64), z[inside].astype(np.float64)
    hand, point = np.divmod(flat, max(solid.shape[1], 1))
    return hand, point, x.ravel()[flat], y, z
