"""What the pads of a hand will meet when they close."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from molmo_ros.datatypes import Array, Index, Mask
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.sweep import Swept
from molmo_ros.perception.complete import Shape

UNSEEN_COSINE = 0.75  # of a contact of which nothing is known except that the object ends there
EMPTY_M = 0.003  # space this far in front of what was seen is empty
THIN_M = 0.012  # only one face is seen of a wall as thin as this


@dataclass(frozen=True)
class Hold:
    """What lies between the pads of each hand (C,)."""

    inside: Index
    intruders: Index
    width: Array
    depth: Array
    cosine: Array
    squeeze: Array
    grip: Index
    guessed: Index
    bite: Array


def hold(shape: Shape, t: Swept, rotation: Array, opening: Array, gripper: Gripper) -> Hold:
    """Measure what the pads will meet when they close."""
    count = len(opening)
    between = np.abs(t.y) < opening[t.hand] / 2
    intruder = between & ~t.own & (t.z > -gripper.finger_length)
    guessed = ~between & t.own
    guessed[guessed] = ~shape.seen[t.point[guessed]]
    caught = between & t.own & (t.z > -gripper.finger_length)
    bite = np.zeros(count)
    np.maximum.at(bite, t.hand[caught], -t.z[caught])
    pad = caught & (t.z > -gripper.pad_length)
    high, low = _extent(t, pad | _goes_down(shape, t, caught & ~pad, rotation, gripper), count)
    hand, point, y, z = t.hand[pad], t.point[pad], t.y[pad], t.z[pad]
    skin = max(0.004, 0.9 * shape.spacing)
    sides = [y > high[hand] - skin, y < low[hand] + skin]
    grips = [np.bincount(hand[side], minlength=count) for side in sides]
    closing = rotation[:, :, 1]
    faces = [
        _mean_normal(shape.normals[point[side]], sign * closing, hand[side])
        for side, sign in zip(sides, (1, -1), strict=True)
    ]
    cosines = [
        np.where(grip > 0, np.sum(n * sign * closing, axis=1), UNSEEN_COSINE)
        for n, sign, grip in zip(faces, (1, -1), grips, strict=True)
    ]
    depths = np.bincount(hand, weights=z, minlength=count)
    inside = np.bincount(hand, minlength=count)
    width = np.where(inside > 0, high - low + shape.pixel, 0.0)
    # of a wall only one face is seen; the other one is parallel to it
    cosine = np.where(width < THIN_M, np.maximum(*cosines), np.minimum(*cosines))
    return Hold(
        inside=inside,
        intruders=np.bincount(t.hand[intruder], minlength=count),
        width=width,
        depth=depths / np.maximum(inside, 1),
        cosine=cosine,
        squeeze=np.where(width < THIN_M, 0.0, _squeeze((faces[0] + faces[1]) / 2, rotation)),
        grip=np.minimum(*grips),
        guessed=np.bincount(t.hand[guessed], minlength=count),
        bite=bite,
    )


def _extent(t: Swept, chosen: Mask, count: int) -> tuple[Array, Array]:
    """Return the highest and the lowest y (C,) m of the chosen pairs of each hand."""
    high, low = np.full(count, -np.inf), np.full(count, np.inf)
    np.maximum.at(high, t.hand[chosen], t.y[chosen])
    np.minimum.at(low, t.hand[chosen], t.y[chosen])
    return high, low


def _goes_down(shape: Shape, t: Swept, above: Mask, rotation: Array, gripper: Gripper) -> Mask:
    """Mark those pairs above the pads below whose point the object continues between the pads.

    Solid things are seen from above and in front: below a lid there is a can, unless the camera saw that the
    space is empty, as inside a bowl or below a wide rim.
    """
    result = np.zeros(len(above), dtype=np.bool_)
    which = np.flatnonzero(above)
    down = -gripper.pad_length / 2 - t.z[which]
    below = shape.points[t.point[which]] + down[:, None] * rotation[t.hand[which], :, 2]
    result[which] = shape.depth_behind_seen(below) > -EMPTY_M
    return result


def _squeeze(slope: Array, rotation: Array) -> Array:
    """Return how far contacts of a mean normal `slope` (C,3) push the object out of a hand, as a sine (C,).

    Sideways or forwards: in the other direction there is the palm.
    """
    sideways = np.sum(slope * rotation[:, :, 0], axis=1)
    ahead = np.minimum(np.sum(slope * rotation[:, :, 2], axis=1), 0.0)
    return np.asarray(np.hypot(sideways, ahead))


def _mean_normal(n: Array, direction: Array, hand: Index) -> Array:
    """Return the mean (C,3) of each hand's normals n (T,3), where the pad looks to -direction (C,3).

    The mean first, since the mean over a noisy face is still its normal; each is weighted by how far it faces
    the pad, since the top beside an edge is not what a pad meets. Zero where there is none.
    """
    count = len(direction)
    facing = np.maximum(np.sum(n * direction[hand], axis=1), 0.05)
    mean = np.stack([np.bincount(hand, weights=facing * n[:, k], minlength=count) for k in range(3)], axis=1)
    return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9))
