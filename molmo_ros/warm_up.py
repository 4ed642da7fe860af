"""A synthetic frame, planned once, so that the first query does not wait for imports and allocations."""

from __future__ import annotations

import numpy as np

from molmo_ros.datatypes import ImagePoint, RgbdFrame
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.planner import GraspPlanner, plan_grasps
from molmo_ros.perception.find_object import Segmenter
from molmo_ros.perception.segmenters import AUTO
from molmo_ros.target import find_target

WIDTH, HEIGHT, FOCAL = 640, 480, 600.0
CAMERA_M, DOWN = 0.5, np.radians(50.0)  # above the table, and how far the camera looks down
BOX_M = (0.025, 0.08, 0.06)  # half its width, its depth along the view, its height
ROUNDS = 2


def warm_up(gripper: Gripper, planner: GraspPlanner = plan_grasps, segmenter: Segmenter | str = AUTO) -> None:
    """Go the whole way from a pixel to a grasp on synthetic frames; the result does not matter."""
    frame, point = made_up_frame()
    for _ in range(ROUNDS):
        find_target(frame, point, gripper, planner=planner, segmenter=segmenter)
        find_target(frame, ImagePoint(WIDTH - 40.0, HEIGHT - 40.0, "table"), gripper, planner=planner)


def made_up_frame() -> tuple[RgbdFrame, ImagePoint]:
    """Return a box on a table, seen from above, and a pixel on its top."""
    K = np.array([[FOCAL, 0, (WIDTH - 1) / 2], [0, FOCAL, (HEIGHT - 1) / 2], [0, 0, 1.0]])
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    x, y = (u - K[0, 2]) / FOCAL, (v - K[1, 2]) / FOCAL
    fall, ahead = np.sin(DOWN) + y * np.cos(DOWN), np.cos(DOWN) - y * np.sin(DOWN)  # per metre of depth
    half, deep, high = BOX_M
    near = CAMERA_M / np.tan(DOWN) - deep / 2  # of the box's front
    depth = CAMERA_M / fall
    for z in ((CAMERA_M - high) / fall, near / np.maximum(ahead, 1e-3)):  # its top, its front
        there, height = ahead * z, CAMERA_M - fall * z
        on_box = (np.abs(x * z) < half) & (there > near - 1e-6) & (there < near + deep)
        on_box &= (height > 0) & (height < high + 1e-6)
        depth = np.where(on_box, np.minimum(depth, z), depth)
    rgb = np.where((CAMERA_M - fall * depth > 0.005)[..., None], [200, 60, 50], [150, 150, 150])
    middle = near + deep / 2
    z = (CAMERA_M - high) * np.sin(DOWN) + middle * np.cos(DOWN)
    row = FOCAL * ((CAMERA_M - high) * np.cos(DOWN) - middle * np.sin(DOWN)) / z + K[1, 2]
    point = ImagePoint((WIDTH - 1) / 2, float(row), "box")
    return RgbdFrame(rgb.astype(np.uint8), depth.astype(np.float32), K, "made_up"), point
