"""Grasps executed in physics: scene families, a floating gripper in MuJoCo, and the results."""
