"""Scenes with shapes, materials and rooms that nothing was tuned on.

TRAINING, TUNING and REPORTING are streams, the second word of a seed: default_rng([n, stream]). No scene of
one is ever a scene of another. POOLS says which individual shapes each may show.
"""

from molmo_ros.sim.wild.camera import WildCamera
from molmo_ros.sim.wild.scenes import POOL, POOLS, REPORTING, TRAINING, TUNING, wild_scene, wild_view

__all__ = ["POOL", "POOLS", "REPORTING", "TRAINING", "TUNING", "WildCamera", "wild_scene", "wild_view"]
