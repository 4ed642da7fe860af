"""Pick what a query names, with MoveIt 2: python examples/moveit_pick.py "the red mug"

Written for a Franka arm with its hand; the names below are what another robot has otherwise. The node molmo
and the robot must be up, and tf must connect the camera with BASE. MoveIt plans around what its scene knows.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped

from molmo_ros.msg import GraspTarget
from molmo_ros.ros.client import GraspClient

BASE, ARM, HAND, TIP = "panda_link0", "panda_arm", "hand", "panda_hand_tcp"  # TIP: z approach, y closing
MOVEIT_CONFIG = "moveit_resources_panda"  # MoveIt's own package of this robot, with moveit_cpp.yaml
LIFT_M, SQUEEZE_M = 0.12, 0.006
# What this robot acts on. The node has limits of its own (docs/safety.md); who moves an arm checks again.
LEAST_CONFIDENCE, LEAST_QUALITY = 0.5, 0.2
MOST_SIGMA_M, MOST_AGE_S = 0.01, 5.0


def objection(target: GraspTarget, now_s: float) -> str:
    """Why not to grasp a target, empty if nothing speaks against it. What is not known (NaN) does."""
    if target.status != GraspTarget.OK:
        return target.status_text
    covariance = np.reshape(target.position_covariance, (3, 3))  # eigvalsh refuses NaN
    sigma = float(np.sqrt(np.linalg.eigvalsh(covariance)[-1])) if np.isfinite(covariance).all() else np.nan
    age_s = now_s - target.header.stamp.sec - target.header.stamp.nanosec * 1e-9
    for good, fact in (
        (target.point.confidence >= LEAST_CONFIDENCE, f"confidence {target.point.confidence:.2f}"),
        (target.quality >= LEAST_QUALITY, f"quality of the grasp {target.quality:.2f}"),
        (sigma <= MOST_SIGMA_M, f"position known to {1000 * sigma:.0f} mm"),
        (age_s <= MOST_AGE_S, f"image {age_s:.1f} s old"),
    ):
        if not good:
            return f"not good enough: {fact}"
    return ""


def best_target(client: GraspClient, query: str) -> GraspTarget:
    """The first target that nothing speaks against. Exits with the reasons if there is none."""
    response = client.find(query, target_frame=BASE, grasp=True)
    now_s = client.node.get_clock().now().nanoseconds * 1e-9
    reasons = []
    for target in response.targets:
        if not (reason := objection(target, now_s)):
            return target
        reasons.append(f"{target.point.label}: {reason}")
    sys.exit("; ".join(reasons) or response.message)


def pick_steps(target: GraspTarget) -> list[tuple[str, PoseStamped | float]]:
    """Poses of TIP for the arm, and distances between the fingers in m for the hand, in order."""
    pregrasp = PoseStamped(header=target.header, pose=target.pregrasp_pose)
    grasp = PoseStamped(header=target.header, pose=target.grasp_pose)
    lift = deepcopy(grasp)
    lift.pose.position.z += LIFT_M  # z of BASE is up
    hold = max(target.width - SQUEEZE_M, 0.0)
    return [("open", target.opening), ("above", pregrasp), ("grasp", grasp), ("close", hold), ("lift", lift)]


def move(robot: Any, goal: PoseStamped | float) -> bool:
    """Plan and execute one step with MoveIt; False if there is no way, or the robot did not get through."""
    part = robot.get_planning_component(ARM if isinstance(goal, PoseStamped) else HAND)
    part.set_start_state_to_current_state()
    if isinstance(goal, PoseStamped):
        part.set_goal_state(pose_stamped_msg=goal, pose_link=TIP)
    else:
        from moveit.core.robot_state import RobotState

        state = RobotState(robot.get_robot_model())
        state.set_joint_group_positions(HAND, [goal / 2, goal / 2])  # each finger goes half of the way
        part.set_goal_state(robot_state=state)
    plan = part.plan()
    return bool(plan) and robot.execute(plan.trajectory, controllers=[]).status == "SUCCEEDED"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    from moveit.planning import MoveItPy
    from moveit_configs_utils import MoveItConfigsBuilder

    with GraspClient() as client:
        steps = pick_steps(best_target(client, sys.argv[1]))
    config = MoveItConfigsBuilder(MOVEIT_CONFIG).moveit_cpp("config/moveit_cpp.yaml").to_moveit_configs()
    robot = MoveItPy(node_name="moveit_py", config_dict=config.to_dict())  # as the dict's
    for name, goal in steps:
        print(name)
        if not move(robot, goal):
            sys.exit(f"MoveIt did not get through the step {name}; nothing after it was done.")
