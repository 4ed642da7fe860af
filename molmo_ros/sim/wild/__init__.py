"""Scenes with shapes, materials and rooms that nothing was tuned on.

TRAINING, TUNING and REPORTING are streams of random numbers, the second word of a seed: default_rng([n, stream]).
No scene of one is ever a scene of another. POOLS tells which individual shapes each may show.
"""

from molmo_ros.sim.wild.scenes import POOL, wild_scene, wild_view

TRAINING, TUNING, REPORTING = 101, 102, 103
POOLS = {TRAINING: POOL, TUNING: range(1000, 1048), REPORTING: range(2000, 2048)}

__all__ = ["POOL", "POOLS", "REPORTING", "TRAINING", "TUNING", "wild_scene", "wild_view"]
