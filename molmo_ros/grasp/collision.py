"""Is there room for the hand? Fingers, palm and approach path, against object, neighbours and table."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array, Index, Mask
from molmo_ros.grasp.candidates import Candidates
from molmo_ros.grasp.contacts import hold
from molmo_ros.grasp.fits import Fits, Refusals
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.sweep import (
    CLEARANCE_M,
    HIT_SCENE,
    LATERAL_M,
    NEAR_M,
    TRAVEL_M,
    Swept,
    clearance,
    weights,
    within,
)
from molmo_ros.perception.complete import Shape

MIN_INSIDE = 4  # points between the pads
MIN_COSINE = 0.7  # of the worse contact normal to the closing direction; rubber holds up to 0.88
MAX_SQUEEZE = 0.42  # sine of the slope of both contacts that pushes the object out; friction 0.5 holds 0.447
BIN_M = 0.001
TABLE_CLEARANCE_M = 0.003
PALM_CLEARANCE_M = 0.006
MAX_RETRACT_M = 0.014
LEVEL = np.sin(np.radians(1.5))  # a hand whose closing direction is within this of level opens level
FINGER_ROOM_M = 0.006  # room that a finger should have beside what it holds


def check(shape: Shape, candidates: Candidates, gripper: Gripper) -> tuple[Fits, Refusals]:
    """Fit the hand to each candidate, and keep those that touch nothing but the object, with the pads.

    The cheap and selective checks come first, each for those that passed the previous ones.
    """
    tips, low, clear = _above_table(shape, candidates, gripper)
    candidates, tips, low = candidates.take(clear), tips[clear], low[clear]
    swept = Swept.of(shape, candidates.rotation, tips, gripper)
    opening, narrowest, shift, free = _free_opening(swept, candidates, low, gripper, clearance(shape))
    rotation, opening, narrowest = candidates.rotation[free], opening[free], narrowest[free]
    shift, low = shift[free], low[free]
    centre = tips[free] + shift[:, None] * rotation[:, :, 1]
    held = hold(shape, swept.by(free, shift), rotation, opening, gripper)
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
        least=narrowest,
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

    Returns tips (C,3), the clearance below their lowest corner (C,) m, and which can still hold the object.
    """
    z, y = c.rotation[:, :, 2], c.rotation[:, :, 1]
    tips = c.contact + c.depth[:, None] * z
    if not shape.has_floor:
        return tips, np.full(len(tips), 0.05), np.ones(len(tips), dtype=np.bool_)
    spread = np.abs(y[:, 2]) * (c.half + clearance(shape) + gripper.finger_thickness)
    lowest = tips[:, 2] - spread - np.abs(c.rotation[:, 2, 0]) * gripper.finger_width / 2
    missing = np.maximum(TABLE_CLEARANCE_M - lowest, 0.0)
    # with a level approach, nothing is gained by withdrawing
    retract = missing / np.maximum(-z[:, 2], 0.05)
    # the contact must stay between the fingers, by 1 mm at least
    clear = retract <= np.minimum(MAX_RETRACT_M, c.depth - 0.001)
    retract = np.where(clear, retract, 0.0)
    corner = np.abs(c.rotation[:, 2]) @ (np.array([*gripper.palm]) / 2)
    palm = (tips - (retract + gripper.finger_length + gripper.palm[2] / 2)[:, None] * z)[:, 2] - corner
    clear &= palm > TABLE_CLEARANCE_M
    return tips - retract[:, None] * z, lowest - TABLE_CLEARANCE_M + retract * -z[:, 2], clear


def _free_opening(
    swept: Swept, c: Candidates, low: Array, gripper: Gripper, room: float
) -> tuple[Array, Array, Array, Mask]:
    """Find the widest collision-free opening, and the shift that centres the hand on what lies between.

    From the expected contacts outwards, the first place where a finger fits on either side bounds the
    object; the hand is centred between these, and opened as far as both sides stay free.
    Returns the widest opening (C,) m and the narrowest (C,) m, the shift (C,) m along y, and which hands (C,)
    fit at all.
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
    return 2 * widest, 2 * least, shift, free


def _first_free(
    t: Swept, direction: int, c: Candidates, gripper: Gripper, room: float
) -> tuple[Array, Array]:
    """Return how far out a finger's inner face first fits (C,) m, and how far it stays free, along +-y."""
    bins = int(np.ceil((gripper.max_opening / 2 + gripper.finger_thickness + LATERAL_M) / BIN_M)) + 2
    finger = int(np.ceil((gripper.finger_thickness + 2 * room) / BIN_M))
    side = np.flatnonzero(direction * t.y > 0)
    # brushing the object itself does little harm, and its completed outline does not lack a pixel
    y = direction * t.y[side] - np.where(t.own[side], room - CLEARANCE_M, 0.0)
    k = np.minimum((np.maximum(y, 0.0) / BIN_M).astype(np.intp), bins - 1)
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


def _palm_free(shape: Shape, rotation: Array, tips: Array, gripper: Gripper) -> Mask:
    """Tell which hands' palms (C,) hit nothing during the approach."""
    palm = np.array(gripper.palm)
    back = gripper.finger_length - PALM_CLEARANCE_M
    corner = np.abs(rotation[:, 2, :2]) @ (palm[:2] / 2 + PALM_CLEARANCE_M)
    lowest = (tips[:, 2] - back * rotation[:, 2, 2] - corner).min(initial=np.inf)
    # neighbours are wider than their visible part
    room = np.full(shape.solid.shape[1], PALM_CLEARANCE_M)
    room[: len(shape.points)] = CLEARANCE_M
    high = shape.solid[2] > lowest  # often there is nothing
    room, weight = room[high], weights(shape)[high]
    behind = -(gripper.finger_length + palm[2] + TRAVEL_M)
    half = palm[:2] / 2 + PALM_CLEARANCE_M
    hand, point, x, y, z = within(shape.solid[:, high], rotation, tips, half, behind, -back)
    hit = np.abs(x) < palm[0] / 2 + room[point]
    hit &= (np.abs(y) < palm[1] / 2 + room[point]) & (z < room[point] - gripper.finger_length)
    return np.asarray(np.bincount(hand[hit], weight[point[hit]], len(tips)) < 0.99)


def _crowd(shape: Shape, rotation: Array, tips: Array, width: Array, gripper: Gripper) -> Index:
    """Count the neighbours' points (C,) near the fingers, opened a little wider than what they hold."""
    half = np.array([gripper.finger_width / 2 + NEAR_M, gripper.max_opening])
    scene = shape.solid[:, len(shape.points) :]
    hand, _, _, y, _ = within(scene, rotation, tips, half, -gripper.finger_length, NEAR_M)
    beside = np.abs(y) - width[hand] / 2
    near = (beside > 0) & (beside < FINGER_ROOM_M + gripper.finger_thickness + NEAR_M)
    return np.bincount(hand[near], minlength=len(tips))
