"""Scenes with shapes, materials and rooms that nothing was tuned on.

Streams of random numbers: TRAINING, TUNING and REPORTING are the second word of a seed, default_rng([n, stream]), so
that no scene of one is ever a scene of another. Shapes of training come from POOL; evaluations draw others.
"""

from molmo_ros.sim.wild.scenes import POOL, wild_scene, wild_view

TRAINING, TUNING, REPORTING = 101, 102, 103

__all__ = ["POOL", "REPORTING", "TRAINING", "TUNING", "wild_scene", "wild_view"]
