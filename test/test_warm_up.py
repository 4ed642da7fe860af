"""The first query after warming up takes about as long as the tenth."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from molmo_ros.datatypes import TargetStatus
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.target import find_target
from molmo_ros.warm_up import made_up_frame

TIMES = """
import time
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.target import find_target
from molmo_ros.warm_up import made_up_frame, warm_up
gripper = Gripper.load("franka_hand")
if {warm}:
    warm_up(gripper)
frame, point = made_up_frame()
for _ in range(10):
    start = time.process_time()
    find_target(frame, point, gripper)
    print(time.process_time() - start)
"""


def _times(warm: bool) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", TIMES.format(warm=warm)], capture_output=True, text=True, check=True
    )
    return [float(line) for line in done.stdout.split()]


def test_the_made_up_thing_is_grasped() -> None:
    frame, point = made_up_frame()
    target = find_target(frame, point, Gripper.load("franka_hand"))
    assert target.status is TargetStatus.OK, target.status_text
    assert target.grasp is not None and abs(target.grasp.width - 0.05) < 0.01


def test_the_first_query_is_as_fast_as_the_tenth() -> None:
    cold, warm = _times(False), _times(True)
    usual = float(np.median(warm[1:]))
    assert warm[0] < 1.6 * usual  # CPU time; the rest is for noise
    assert cold[0] > 1.3 * usual  # without it there would be nothing to gain
