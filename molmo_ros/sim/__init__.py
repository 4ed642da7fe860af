"""A simulated RGB-D camera over a procedural table, by ray casting on the CPU."""

from molmo_ros.sim.camera import FRAME_ID, SimCamera, SimTruth
from molmo_ros.sim.noise import NoiseModel
from molmo_ros.sim.objects import COLORS, KINDS
from molmo_ros.sim.scene import Scene, SimObject

__all__ = ["COLORS", "FRAME_ID", "KINDS", "NoiseModel", "Scene", "SimCamera", "SimObject", "SimTruth"]
