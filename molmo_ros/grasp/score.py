"""How good is a grasp? A number from 0 to 1, computed from what predicts success."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import Array
from molmo_ros.grasp.candidates import Candidates
from molmo_ros.grasp.collision import FINGER_ROOM_M
from molmo_ros.grasp.contacts import THIN_M
from molmo_ros.grasp.fits import Fits
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.guards import FAR_M, beside_ray
from molmo_ros.grasp.sweep import NEAR_M, clearance, within
from molmo_ros.perception.complete import Shape

# a user who clicks far from the middle means that part: the click outweighs the middle
ANTIPODAL, CENTRE, VERTICAL, SUPPORT, CLICK = 0.34, 0.14, 0.12, 0.10, 0.25
MARGIN, TABLE, SLACK, BITE = 0.08, 0.08, 0.05, 0.12
BEST = ANTIPODAL + CENTRE + VERTICAL + SUPPORT + CLICK + MARGIN + TABLE + SLACK + BITE
OCCLUDED, GUESSED, LATERAL, SQUEEZE, CROWD = 0.50, 0.02, 0.05, 0.30, 0.15
FAR = 0.5  # what a guard would object to comes last; the guard takes the middle of the pads as the contact
CROWDED = 6  # points
FULL_SUPPORT = 2e-4  # m^2 of the surface at each contact
PROBE_M = 0.007  # above and below the tips

# log-odds of holding as a function of the score: 704 grasps executed in physics, on scenes kept for tuning
ODDS_AT_ZERO, ODDS_SLOPE = -1.18, 8.04


def score(shape: Shape, fits: Fits, click: Array, gripper: Gripper) -> Array:
    """Rate the hands that fit (P,), for a click at (3,) m in the support frame."""
    middle = shape.points.mean(axis=0)
    off_middle = np.linalg.norm(fits.contact - middle, axis=1)
    off_click = np.linalg.norm(fits.contact - click, axis=1)
    # a round thing must be held below its middle, and its lower half is seldom seen
    deep = 0.75 * float(np.ptp(shape.points[:, 2]))
    wanted = np.full(len(fits), min(deep, 0.9 * gripper.finger_length))
    # for a wall, the rim is enough, and the best place: farther down it curves away
    wanted[fits.width < THIN_M] = 0.010
    total = (
        ANTIPODAL * np.clip((fits.cosine - 0.6) / 0.4, 0, 1)
        + CENTRE * np.exp(-((off_middle / 0.035) ** 2))
        + VERTICAL * np.clip(-fits.rotation[:, 2, 2], 0, 1)
        + SUPPORT * np.clip(fits.grip * shape.spacing**2 / FULL_SUPPORT, 0, 1)
        + CLICK * np.exp(-((off_click / 0.045) ** 2))
        + MARGIN * np.clip((gripper.max_opening - fits.width) / (0.3 * gripper.max_opening), 0, 1)
        + TABLE * np.clip(fits.table / 0.010, 0, 1)
        + SLACK * np.clip(fits.slack / 0.020, 0, 1)
        + BITE * np.clip(fits.bite / wanted, 0, 1)
        - OCCLUDED * occluded_share(shape, fits, gripper)
        - GUESSED * np.clip(fits.guessed, 0, 2) / 2
        - SQUEEZE * np.clip((fits.squeeze - 0.1) / 0.3, 0, 1)
        - CROWD * np.clip(fits.crowd / CROWDED, 0, 1)
        - LATERAL * np.clip(fits.shift / 0.010, 0, 1)
        - FAR * (beside_ray(click - shape.eye, fits.contact - click) > 0.95 * FAR_M)
    )
    return np.asarray(np.clip(total / BEST, 0, 1))


def prior_score(shape: Shape, candidates: Candidates, click: Array, gripper: Gripper) -> Array:
    """Rate candidates (C,) by what is known of them before they are checked: the same score, as far as
    possible."""
    middle = shape.points.mean(axis=0)
    off_middle = np.linalg.norm(candidates.contact - middle, axis=1)
    off_click = np.linalg.norm(candidates.contact - click, axis=1)
    down = np.clip(-candidates.rotation[:, 2, 2], 0, 1)
    # too much of the object above or behind the contact keeps the palm away
    above = np.maximum(shape.points[:, 2].max() - candidates.contact[:, 2], 0) / np.maximum(down, 0.01)
    behind = np.ptp(shape.points[:, :2], axis=0).min() / 2 / np.sqrt(np.maximum(1 - down**2, 1e-4))
    within_reach = np.minimum(above, behind) < gripper.finger_length - candidates.depth
    return np.asarray(
        CENTRE * np.exp(-((off_middle / 0.035) ** 2))
        + VERTICAL * down
        + CLICK * np.exp(-((off_click / 0.045) ** 2))
        + ANTIPODAL * np.clip((candidates.cosine - 0.6) / 0.4, 0, 1)
        + within_reach
    )


def occluded_share(shape: Shape, fits: Fits, gripper: Gripper) -> Array:
    """Return the share (P,) of the fingers' path that lies behind what the camera saw, where anything may be.

    From where they are open to where they touch, and just below: behind a mug may be its handle.
    """
    side = np.array([-1.0, 1.0])
    shut = np.array([0.1, 0.5, 0.9])[:, None]
    z = np.array([PROBE_M, -PROBE_M, -0.4 * gripper.finger_length])[:, None, None]
    opening, width = fits.opening[:, None, None, None], fits.width[:, None, None, None]
    across = side * (opening / 2 - shut * (opening - width) / 2 + gripper.finger_thickness / 2)
    middle = np.sum((fits.contact - fits.tips) * fits.rotation[:, :, 1], axis=1)[:, None, None, None]
    tips, y, approach = (a[:, None, None, None] for a in (fits.tips, *np.moveaxis(fits.rotation, 2, 0)[1:]))
    points = tips + (across + shut * middle)[..., None] * y + z[..., None] * approach
    return np.asarray(np.mean(shape.depth_behind_seen(points) > 0.005, axis=(1, 2, 3)))


def known_opening(shape: Shape, fits: Fits, k: int, gripper: Gripper) -> float:
    """Return the widest opening (m) of one hand for which its fingers come down least in unseen space.

    Never narrower than the opening that was found to fit around the object, nor than a finger's room beside
    it; nor wider than what is free and as far from the neighbours as from what is held.
    """
    fitting, free = float(fits.least[k]), float(fits.opening[k])
    widest = max(min(free, _amid(shape, fits, k, gripper)), fitting)
    least = max(min(float(fits.width[k]) + 2 * FINGER_ROOM_M, widest), fitting)
    openings = np.linspace(widest, least, 6)
    across = np.stack([openings / 2 + share * gripper.finger_thickness for share in (0.0, 0.5, 1.0)])
    along = -gripper.finger_length * np.array([0.0, 0.2, 0.5])
    x = gripper.finger_width * np.array([-0.5, 0.5])
    R, tips = fits.rotation[k], fits.tips[k]
    a, z, x, side = np.broadcast_arrays(
        across[:, :, None, None, None], along[:, None, None], x[:, None], np.array([-1.0, 1.0])
    )
    points = tips + x[..., None] * R[:, 0] + (side * a)[..., None] * R[:, 1] + z[..., None] * R[:, 2]
    hidden = (shape.depth_behind_seen(points) > 0.003).mean(axis=(0, 2, 3, 4))
    return float(openings[np.argmin(hidden)])


def _amid(shape: Shape, fits: Fits, k: int, gripper: Gripper) -> float:
    """Return the opening (m) that leaves each finger NEAR_M to the next neighbour, or half the gap."""
    half = np.array([gripper.finger_width / 2 + NEAR_M, gripper.max_opening])
    one = slice(k, k + 1)
    scene = shape.solid[:, len(shape.points) :]
    y = within(scene, fits.rotation[one], fits.tips[one], half, -gripper.finger_length, NEAR_M)[3]
    held = float(fits.width[k]) / 2
    room = np.abs(y[np.abs(y) > held]).min(initial=np.inf) - gripper.finger_thickness
    return float(2 * max(room - NEAR_M, (held + room) / 2, held + clearance(shape)))


def probability(score: float) -> float:
    """Return how likely a grasp of a score 0..1 is to hold (docs/grasping.md)."""
    return float(1 / (1 + np.exp(-(ODDS_AT_ZERO + ODDS_SLOPE * score))))
