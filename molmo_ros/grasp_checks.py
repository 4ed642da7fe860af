"""Is there room for the hand? Fingers, palm and way in, against object, neighbours and table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo_ros.cloud import Index
from molmo_ros.complete import Shape
from molmo_ros.datatypes import Array, Mask
from molmo_ros.grasp_candidates import Candidates
from molmo_ros.grasp_fits import Fits, Refusals
from molmo_ros.gripper import Gripper

# a stray depth point must not veto a grasp, nor must a guessed one alone; one of the object's own does
HIT_SEEN, HIT_GUESSED, HIT_SCENE = 1.0, 0.4, 0.4
MIN_INSIDE = 4  # points between the pads
MIN_COSINE = 0.7  # of the worse contact normal to the closing direction; rubber holds up to 0.88
MAX_SQUEEZE = 0.4  # sine of the slope of both contacts by which the object is pushed out of the hand
THIN_M = 0.012
BIN_M = 0.001
CLEARANCE_M = 0.001  # beside each finger, plus the pixel that a sensor loses at every outline
TABLE_CLEARANCE_M = 0.003
PALM_CLEARANCE_M = 0.006
MAX_RETRACT_M = 0.014
TRAVEL_M = 0.10  # from the pregrasp to the grasp
LEVEL = np.sin(np.radians(1.5))  # a hand that closes as level as this opens level
FINGER_ROOM_M = 0.006  # that a finger should have beside what it holds
NEAR_M = 0.006  # nearer things are in the way, if but a little more of them is there than was seen
LATERAL_M = 0.012  # how far recentring may shift the hand


def clearance(shape: Shape) -> float:
    """Return the room in m that is kept beside each finger."""
    return CLEARANCE_M + shape.pixel


def check(shape: Shape, candidates: Candidates, gripper: Gripper) -> tuple[Fits, Refusals]:
    """Fit the hand to each candidate, and keep those that touch nothing but the object, with the pads.

    The cheap and telling checks come first, each for those that passed the ones before.
    """
    tips, low, clear = _above_table(shape, candidates, gripper)
    candidates, tips, low = candidates.take(clear), tips[clear], low[clear]
    swept = _Swept.of(shape, candidates.rotation, tips, gripper)
    opening, shift, free = _free_opening(swept, candidates, low, gripper, clearance(shape))
    rotation, opening, shift, low = candidates.rotation[free], opening[free], shift[free], low[free]
    centre = tips[free] + shift[:, None] * rotation[:, :, 1]
    held = _hold(shape, swept.by(free, shift), rotation, opening, gripper)
    firm = (held.inside >= MIN_INSIDE) & (held.cosine >= MIN_COSINE) & (held.squeeze <= MAX_SQUEEZE)
    alone = held.intruders * HIT_SCENE < 0.99
    good = np.flatnonzero(firm & alone)
    good = good[_palm_free(shape, rotation[good], centre[good], gripper)]
    crowd = np.zeros(len(centre), dtype=np.intp)
    crowd[good] = _crowd(shape, rotation[good], centre[good], held.width[good], gripper)
    refusals = Refusals(
        table=int(np.count_nonzero(~clear)),
        no_opening=int(np.count_nonzero(~free)),
        nothing_between=int(np.count_nonzero(~firm)),
        neighbour=int(np.count_nonzero(firm & ~alone)),
        palm=int(np.count_nonzero(firm & alone)) - len(good),
    )
    fits = Fits(
        rotation=rotation,
        tips=centre,
        opening=opening,
        width=held.width,
        contact=centre + held.depth[:, None] * rotation[:, :, 2],
        cosine=held.cosine,
        squeeze=held.squeeze,
        grip=held.grip,
        slack=opening - held.width,
        table=low,
        shift=np.abs(shift),
        guessed=held.guessed,
        bite=held.bite,
        crowd=crowd,
    )
    return fits.take(good), refusals


def _above_table(shape: Shape, c: Candidates, gripper: Gripper) -> tuple[Array, Array, Mask]:
    """Place the tips, withdrawn until they clear the table.

    Returns tips (C,3), what is left below their lowest corner (C,) m, and which of them can be held so.
    """
    z, y = c.rotation[:, :, 2], c.rotation[:, :, 1]
    tips = c.contact + c.depth[:, None] * z
    if not shape.has_floor:
        return tips, np.full(len(tips), 0.05), np.ones(len(tips), dtype=np.bool_)
    spread = np.abs(y[:, 2]) * (c.half + clearance(shape) + gripper.finger_thickness)
    lowest = tips[:, 2] - spread - np.abs(c.rotation[:, 2, 0]) * gripper.finger_width / 2
    missing = np.maximum(TABLE_CLEARANCE_M - lowest, 0.0)
    # coming level, nothing is gained by withdrawing
    retract = missing / np.maximum(-z[:, 2], 0.05)
    # the contact must stay between the fingers, by 1 mm at least
    clear = retract <= np.minimum(MAX_RETRACT_M, c.depth - 0.001)
    retract = np.where(clear, retract, 0.0)
    corner = np.abs(c.rotation[:, 2]) @ (np.array([*gripper.palm]) / 2)
    palm = (tips - (retract + gripper.finger_length + gripper.palm[2] / 2)[:, None] * z)[:, 2] - corner
    clear &= palm > TABLE_CLEARANCE_M
    return tips - retract[:, None] * z, lowest - TABLE_CLEARANCE_M + retract * -z[:, 2], clear


@dataclass(frozen=True)
class _Swept:
    """Every (hand, point) whose point lies in the strip that the fingers of that hand sweep.

    hand (T,) and point (T,) are indices, y (T,) and z (T,) m in the hand's frame; own (T,) marks points of
    the object, which come first, the rest are the scene's; weight (T,) is what a hit counts, 1 vetoes.
    """

    hand: Index
    point: Index
    y: Array
    z: Array
    own: Mask
    weight: npt.NDArray[np.float32]

    @staticmethod
    def of(shape: Shape, rotation: Array, tips: Array, gripper: Gripper) -> _Swept:
        room = clearance(shape)
        reach = gripper.max_opening / 2 + gripper.finger_thickness + LATERAL_M + 2 * room
        half = np.array([gripper.finger_width / 2 + room, reach])
        points = np.concatenate([shape.points, shape.scene])
        hand, point, _, y, z = within(points, rotation, tips, half, -(gripper.finger_length + TRAVEL_M), room)
        return _Swept(hand, point, y, z, point < len(shape.points), _weights(shape)[point])

    def by(self, which: Mask, shift: Array) -> _Swept:
        """Leave only some of the hands (C,), each shifted by (C,) m along y."""
        number = np.cumsum(which) - 1
        keep = which[self.hand]
        hand = number[self.hand[keep]]
        y = self.y[keep] - shift[hand]
        return _Swept(hand, self.point[keep], y, self.z[keep], self.own[keep], self.weight[keep])


def _weights(shape: Shape) -> npt.NDArray[np.float32]:
    """Return what a hit of each point (N+S,) of object and scene counts; 1 vetoes."""
    own = np.where(shape.seen, HIT_SEEN, HIT_GUESSED)
    return np.concatenate([own, np.full(len(shape.scene), HIT_SCENE)]).astype(np.float32)


def within(
    points: Array, rotation: Array, tips: Array, half: Array, lowest: float, highest: float
) -> tuple[Index, Index, Array, Array, Array]:
    """Find the points (N,3) in a box about each hand: |x|, |y| below half (2,) m, z between two heights in m.

    Returns the pairs' hand, point, and x, y, z m in the hand's frame, (T,) each.
    """
    homogeneous = np.concatenate([points.T, np.ones((1, len(points)))]).astype(np.float32)
    axes = rotation.transpose(2, 0, 1)  # [k] (C,3) the hands' k-th axes
    offset = -np.sum(axes * tips, axis=2, keepdims=True)
    x, y, z = (axis @ homogeneous for axis in np.concatenate([axes, offset], axis=2).astype(np.float32))
    flat = np.flatnonzero(np.abs(x) < half[0])  # a hand is narrow: this leaves few
    y, z = y.ravel()[flat], z.ravel()[flat]
    inside = (np.abs(y) < half[1]) & (z > lowest) & (z < highest)
    flat, y, z = flat[inside], y[inside].astype(np.float64), z[inside].astype(np.float64)
    hand, point = np.divmod(flat, max(len(points), 1))
    return hand, point, x.ravel()[flat], y, z


def _free_opening(
    swept: _Swept, c: Candidates, low: Array, gripper: Gripper, room: float
) -> tuple[Array, Array, Mask]:
    """Find the widest opening without a hit, and the shift that centres the hand on what lies between.

    From the expected contacts outwards, the first place where a finger fits on either side bounds the
    object; the hand is centred between these, and opened as far as both sides stay free.
    Returns opening (C,) m, shift (C,) m along y, and which hands (C,) fit at all.
    """
    right, right_end = _first_free(swept, 1, c, gripper, room)
    left, left_end = _first_free(swept, -1, c, gripper, room)
    shift = (right - left) / 2
    least = (right + left) / 2
    widest = np.minimum(right_end - shift, left_end + shift)
    # a tilted hand that opens wide would put a finger into the table
    steep = np.abs(c.rotation[:, 2, 1])
    over_table = np.where(steep > LEVEL, c.half + room + low / np.maximum(steep, LEVEL), np.inf)
    widest = np.minimum(np.minimum(widest, over_table), gripper.max_opening / 2)
    free = (widest >= least) & (np.abs(shift) <= LATERAL_M)
    return 2 * widest, shift, free


def _first_free(
    t: _Swept, direction: int, c: Candidates, gripper: Gripper, room: float
) -> tuple[Array, Array]:
    """Return how far out a finger's inner face first fits (C,) m, and how far it stays free, along +-y."""
    bins = int(np.ceil((gripper.max_opening / 2 + gripper.finger_thickness + LATERAL_M) / BIN_M)) + 2
    finger = int(np.ceil((gripper.finger_thickness + 2 * room) / BIN_M))
    # to brush the object itself does little harm, and its completed outline is not short of a pixel
    y = direction * t.y - np.where(t.own, room - CLEARANCE_M, 0.0)
    side = direction * t.y > 0
    y = np.maximum(y, 0.0)
    k = np.minimum((y[side] / BIN_M).astype(np.intp), bins - 1)
    hits = np.bincount(t.hand[side] * bins + k, weights=t.weight[side], minlength=len(c) * bins)
    sums = np.concatenate([np.zeros((len(c), 1)), np.cumsum(hits.reshape(len(c), bins), axis=1)], axis=1)
    free = sums[:, finger:] - sums[:, :-finger] < 0.99
    place = np.arange(free.shape[1])
    start = np.maximum((c.half - 0.002) / BIN_M, 0)[:, None]
    beyond = free & (place >= start)
    first = np.where(beyond.any(axis=1), np.argmax(beyond, axis=1), free.shape[1] + bins)
    blocked = ~free & (place > first[:, None])
    end = np.where(blocked.any(axis=1), np.argmax(blocked, axis=1) - 1, free.shape[1] - 1)
    return (first * BIN_M) + room, (end * BIN_M) + room


@dataclass(frozen=True)
class _Hold:
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


def _hold(shape: Shape, t: _Swept, rotation: Array, opening: Array, gripper: Gripper) -> _Hold:
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
    hand, point, y, z = t.hand[pad], t.point[pad], t.y[pad], t.z[pad]
    high, low = np.full(count, -np.inf), np.full(count, np.inf)
    np.maximum.at(high, hand, y)
    np.minimum.at(low, hand, y)
    skin = max(0.004, 0.9 * shape.spacing)
    sides = [y > high[hand] - skin, y < low[hand] + skin]
    grips = [np.bincount(hand[side], minlength=count) for side in sides]
    closing, approach = rotation[:, :, 1], rotation[:, :, 2]
    faces = [
        _mean_normal(shape.normals[point[side]], sign * closing, hand[side])
        for side, sign in zip(sides, (1, -1), strict=True)
    ]
    cosines = [np.sum(n * sign * closing, axis=1) for n, sign in zip(faces, (1, -1), strict=True)]
    depths = np.bincount(hand, weights=z, minlength=count)
    inside = np.bincount(hand, minlength=count)
    width = np.where(inside > 0, high - low + shape.pixel, 0.0)
    # of a wall only one face is seen; the other one is parallel to it
    cosine = np.where(width < THIN_M, np.maximum(*cosines), np.minimum(*cosines))
    return _Hold(
        inside=inside,
        intruders=np.bincount(t.hand[intruder], minlength=count),
        width=width,
        depth=depths / np.maximum(inside, 1),
        cosine=cosine,
        squeeze=np.where(width < THIN_M, 0.0, -np.sum((faces[0] + faces[1]) * approach, axis=1) / 2),
        grip=np.minimum(*grips),
        guessed=np.bincount(t.hand[guessed], minlength=count),
        bite=bite,
    )


def _mean_normal(n: Array, direction: Array, hand: Index) -> Array:
    """Return the mean (C,3) of each hand's normals n (T,3), where the pad looks to -direction (C,3).

    The mean first, for that of a noisy face is still its normal; each counts by how far it faces the pad,
    for the top beside an edge is not what a pad meets. Zero where there is none.
    """
    count = len(direction)
    facing = np.maximum(np.sum(n * direction[hand], axis=1), 0.05)
    mean = np.stack([np.bincount(hand, weights=facing * n[:, k], minlength=count) for k in range(3)], axis=1)
    return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9))


def _palm_free(shape: Shape, rotation: Array, tips: Array, gripper: Gripper) -> Mask:
    """Tell which hands' palms (C,) meet nothing on their way in."""
    palm = np.array(gripper.palm)
    back = gripper.finger_length - PALM_CLEARANCE_M
    corner = np.abs(rotation[:, 2, :2]) @ (palm[:2] / 2 + PALM_CLEARANCE_M)
    lowest = (tips[:, 2] - back * rotation[:, 2, 2] - corner).min(initial=np.inf)
    points = np.concatenate([shape.points, shape.scene])
    # neighbours are wider than what is seen of them
    room = np.full(len(points), PALM_CLEARANCE_M)
    room[: len(shape.points)] = CLEARANCE_M
    high = points[:, 2] > lowest  # often nothing is
    room, weight = room[high], _weights(shape)[high]
    behind = -(gripper.finger_length + palm[2] + TRAVEL_M)
    hand, point, x, y, z = within(
        points[high], rotation, tips, palm[:2] / 2 + PALM_CLEARANCE_M, behind, -back
    )
    hit = np.abs(x) < palm[0] / 2 + room[point]
    hit &= (np.abs(y) < palm[1] / 2 + room[point]) & (z < room[point] - gripper.finger_length)
    return np.asarray(np.bincount(hand[hit], weight[point[hit]], len(tips)) < 0.99)


def _crowd(shape: Shape, rotation: Array, tips: Array, width: Array, gripper: Gripper) -> Index:
    """Count the neighbours' points (C,) near the fingers, opened a little wider than what they hold."""
    half = np.array([gripper.finger_width / 2 + NEAR_M, gripper.max_opening])
    hand, _, _, y, _ = within(shape.scene, rotation, tips, half, -gripper.finger_length, NEAR_M)
    beside = np.abs(y) - width[hand] / 2
    near = (beside > 0) & (beside < FINGER_ROOM_M + gripper.finger_thickness + NEAR_M)
    return np.bincount(hand[near], minlength=len(tips))
