"""One grasp in physics: approach from the pregrasp, close, lift, shake. Held or not, and where it went
wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np

from molmo_ros.datatypes import Array, Grasp
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.sim.scene import Scene
from molmo_ros.tools.grasp_physics.world import STEP_S, World, build_world
from molmo_ros.transforms import pose_matrix

FRICTION = 0.5  # of the pads, nominal: rubber on glazed or painted things
APPROACH_SPEED, LIFT_SPEED = 0.15, 0.20  # m/s
LIFT_M, HELD_M = 0.15, 0.10  # how far it is lifted, and how much of that the thing must have followed
SHAKE_M, SHAKE_HZ, SHAKE_S = 0.015, 3.0, 0.8  # peaks at 5.3 m/s^2 on top of gravity
CLOSE_S = 1.2
RESTLESS_M = 0.004  # a thing that moves by itself before anything touches it: the scene is not sound


@dataclass(frozen=True)
class Outcome:
    """held: still in the hand after lifting and shaking.

    touched: neighbours that the hand hit before it closed; on_table, on_target: it hit those then; pushed m
    the largest displacement of a neighbour before closing; stage: where it was lost (approach, close, lift,
    shake), or "" if it was held; restless: things moved by themselves, so that the trial means nothing.
    """

    held: bool
    touched: tuple[int, ...] = ()
    on_table: bool = False
    on_target: bool = False
    pushed: float = 0.0
    stage: str = ""
    restless: bool = False


@dataclass
class _Run:
    world: World
    data: Any
    home: Array  # (3,) m of the hand in the world, where its slides are zero
    axes: Array  # (3,3) of the slides
    watch: Callable[[str, Any], None] | None = None
    stage: str = ""
    touched: set[int] = field(default_factory=set)

    def move(self, to: Array, seconds: float, opening: float) -> None:
        """Drive the hand in a straight line to a place (3,) m in the world."""
        goal = self.axes.T @ (to - self.home)
        start = self.data.ctrl[:3].copy()
        steps = max(int(seconds / STEP_S), 1)
        for k in range(steps):
            self.data.ctrl[:3] = start + (goal - start) * (k + 1) / steps
            self.step(opening)

    def step(self, opening: float) -> None:
        # beyond closed: the servo then pushes with full force, whatever is between the fingers
        self.data.ctrl[3:] = opening / 2
        mujoco.mj_step(self.world.model, self.data)
        if self.stage == "approach":
            self.touched |= self.hand_contacts()
        if self.watch is not None:
            self.watch(self.stage, self.data)

    def hand_contacts(self) -> set[int]:
        """Body ids that the hand overlaps with; 0 is the table."""
        contact, body_of = self.data.contact, self.world.model.geom_bodyid
        if not len(contact.dist):
            return set()
        pairs = body_of[contact.geom[contact.dist < 0]]
        own = np.isin(pairs, (self.world.hand, *self.world.fingers))
        met = pairs[own[:, ::-1] & ~own]
        return {int(b) for b in met}

    def places(self) -> Array:
        """(N,3) m, of all things' centres of mass."""
        return np.asarray(self.data.xipos[list(self.world.things)].copy())


def try_grasp(
    scene: Scene,
    target: int,
    grasp: Grasp,
    gripper: Gripper,
    friction: float = FRICTION,
    close: bool = True,
    watch: Callable[[str, Any], None] | None = None,
) -> Outcome:
    """Execute a grasp, given in the scene's world frame.

    Args: target, index of the thing; friction of the pads; close=False keeps the fingers open, for control;
    watch, called after each step with the stage and MuJoCo's data.
    """
    T, T_pre = pose_matrix(grasp.pose), pose_matrix(grasp.pregrasp)
    world = build_world(scene, gripper, T_pre, friction)
    data = mujoco.MjData(world.model)
    opening = min(grasp.opening or gripper.max_opening, gripper.max_opening)
    data.qpos[world.model.jnt_qposadr[-2:]] = opening / 2
    run = _Run(world, data, T_pre[:3, 3], T_pre[:3, :3], watch)
    mujoco.mj_forward(world.model, data)
    before = run.places()
    run.stage = "approach"
    way = float(np.linalg.norm(T[:3, 3] - T_pre[:3, 3]))
    run.move(T[:3, 3], way / APPROACH_SPEED, opening)
    run.move(T[:3, 3], 0.1, opening)
    moved = np.linalg.norm(run.places() - before, axis=1)
    neighbours = [i for i in range(len(before)) if i != target]
    met = tuple(i for i in neighbours if world.things[i] in run.touched)
    report = {
        "touched": met,
        "on_table": 0 in run.touched,
        "on_target": world.things[target] in run.touched,
        "pushed": float(max((moved[i] for i in neighbours), default=0.0)),
        "restless": not run.touched and bool(np.any(moved > RESTLESS_M)),
    }
    lost = _take(run, target, T[:3, 3], opening, close)
    return Outcome(not lost, stage=lost, **report)  # type: ignore[arg-type]


def _take(run: _Run, target: int, at: Array, opening: float, close: bool) -> str:
    """Close, lift and shake; return the stage in which the thing was lost, or ""."""
    grip = -0.02 if close else opening
    body = run.world.things[target]
    start = run.places()[target, 2]
    run.stage = "close"
    run.move(at, CLOSE_S, grip)
    if not _gripped(run, body):
        return "close"
    run.stage = "lift"
    top = at + np.array([0, 0, LIFT_M])
    run.move(top, LIFT_M / LIFT_SPEED, grip)
    run.move(top, 0.2, grip)
    if run.places()[target, 2] - start < HELD_M:
        return "lift"
    run.stage = "shake"
    for axis in range(3):
        for k in range(int(SHAKE_S / 2 / STEP_S)):
            swing = SHAKE_M * np.sin(2 * np.pi * SHAKE_HZ * k * STEP_S)
            run.data.ctrl[:3] = run.axes.T @ (top + swing * np.eye(3)[axis] - run.home)
            run.step(grip)
    run.move(top, 0.2, grip)
    held = run.places()[target, 2] - start > HELD_M and _gripped(run, body)
    return "" if held else "shake"


def _gripped(run: _Run, body: int) -> bool:
    return body in run.hand_contacts()
