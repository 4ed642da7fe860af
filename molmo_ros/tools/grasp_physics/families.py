"""Draw the case of a family with a seed."""

from __future__ import annotations

import numpy as np

from molmo_ros.errors import ParameterError
from molmo_ros.sim import KINDS
from molmo_ros.tools.grasp_physics.case import (
    FAMILIES,
    INFEASIBLE,
    NAMES,
    Case,
    draw_things,
    look_around,
    shows,
)
from molmo_ros.tools.grasp_physics.infeasible import draw_infeasible
from molmo_ros.tools.grasp_physics.placing import nearest_gap
from molmo_ros.tools.grasp_physics.wild_cases import draw_wild
from molmo_ros.tools.grasp_physics.world import settled


def check_family(name: str) -> str:
    """Return the name of a family. Raises: ParameterError for an unknown one."""
    if name not in NAMES:
        raise ParameterError(f"There is no scene family {name!r}; choose from {', '.join(NAMES)}, or all.")
    return name


def draw_case(family: str, seed: int) -> Case:
    """Draw the target of a family with a seed. Raises: ParameterError for an unknown family."""
    check_family(family)
    rng = np.random.default_rng([seed, *family.encode()])
    if family == INFEASIBLE:
        return draw_infeasible(seed, rng)
    if family not in FAMILIES:
        return draw_wild(family, seed, rng)
    f = FAMILIES[family]
    while True:
        things = draw_things(f, rng)
        index = 0 if f.target != KINDS else int(rng.integers(len(things)))
        scene = settled(look_around(things, index, f.elevation, rng))
        if shows(scene, index):
            gap = nearest_gap(index, scene.objects)
            return Case(family, seed, scene, index, gap, f.noise, f.holes)
