"""Targets that no hand can grasp, each with a twin that can be grasped: does the planner refuse the right
ones?

An odd seed draws the twin. What makes a target infeasible holds by construction for hands that open up to
OPENING_M: a thing wider than that in every direction, one walled in on all sides as high as itself, one
without depth (transparent), and a click on the empty table.
"""

from __future__ import annotations

import numpy as np

from molmo_ros.sim import KINDS
from molmo_ros.sim.mesh import box
from molmo_ros.sim.more_objects import WIDE, make
from molmo_ros.sim.scene import SimObject
from molmo_ros.tools.grasp_physics.case import (
    INFEASIBLE,
    NO_DEPTH,
    NOTHING,
    Case,
    a_color,
    look_around,
    shows,
)
from molmo_ros.tools.grasp_physics.placing import nearest_gap, put
from molmo_ros.tools.grasp_physics.world import settled

OPENING_M = 0.085
TOO_WIDE, WALLED = "too_wide", "walled"
VARIANTS = (TOO_WIDE, WALLED, NO_DEPTH, NOTHING)
SHUT_M, OPEN_M = (0.001, 0.004), (0.035, 0.045)  # between a target and its walls


def draw_infeasible(seed: int, rng: np.random.Generator) -> Case:
    """Draw an infeasible target (even seeds) or its feasible twin (odd seeds)."""
    feasible = bool(seed % 2)
    variant = VARIANTS[seed // 2 % len(VARIANTS)]
    while True:
        elevation = (68.0, 82.0) if variant == WALLED else (36.0, 66.0)
        things = _walled(feasible, rng) if variant == WALLED else [_alone(variant, feasible, rng)]
        scene = settled(look_around(things, 0, elevation, rng))
        if shows(scene, 0):
            gap = nearest_gap(0, scene.objects)
            return Case(INFEASIBLE, seed, scene, 0, gap, variant=variant, feasible=feasible, holes=1.0)


def _alone(variant: str, feasible: bool, rng: np.random.Generator) -> SimObject:
    if variant == TOO_WIDE and not feasible:
        kind = str(rng.choice(WIDE))
    else:
        kind = str(rng.choice(("box", "ball") if variant == TOO_WIDE else KINDS))
    return put(kind, a_color(kind, rng), make(kind, rng), 0.0, 0.0, rng.uniform(0, 2 * np.pi))


def _walled(feasible: bool, rng: np.random.Generator) -> list[SimObject]:
    """A block, and four walls as high as it is around it."""
    length, width, height = rng.uniform(0.05, 0.07), rng.uniform(0.04, 0.055), rng.uniform(0.04, 0.07)
    turn, thick = rng.uniform(0, 2 * np.pi), 0.03
    things = [put("box", a_color("box", rng), box((length, width, height), 0.2), 0.0, 0.0, turn)]
    c, s = np.cos(turn), np.sin(turn)
    for axis, half in ((0, length / 2), (1, width / 2)):
        for side in (-1, 1):
            gap = rng.uniform(*(OPEN_M if feasible else SHUT_M))
            size = [0.0, 0.0, height + rng.uniform(0.0, 0.005)]
            size[axis], size[1 - axis] = thick, width if axis == 0 else length + 2 * thick
            local = np.zeros(2)
            local[axis] = side * (half + gap + thick / 2)
            x, y = c * local[0] - s * local[1], s * local[0] + c * local[1]
            wall = box((size[0], size[1], size[2]))
            things.append(put("box", a_color("box", rng), wall, x, y, turn))
    return things
