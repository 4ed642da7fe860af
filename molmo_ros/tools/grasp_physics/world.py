"""A scene and a floating parallel gripper as a MuJoCo model.

The hand keeps its orientation and moves along three slides under stiff position control, like a robot that
holds a pose; its fingers are coupled, and close with a force. Pads decide the friction of their contacts:
MuJoCo would take the larger of two values, so their geoms have priority.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import mujoco
import numpy as np
from scipy.spatial import ConvexHull

from molmo_ros.datatypes import Array
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.sim.more_objects import MASS_KG
from molmo_ros.sim.scene import Scene, SimObject
from molmo_ros.transforms import invert, make_transform, quaternion_from_matrix

STEP_S = 0.002
SETTLE_S, CALM = 6.0, 0.002  # the longest wait for things to come to rest, and the speed (m/s, rad/s) of rest
FORCE_N = 30.0  # of each finger; a Franka hand grips with up to 70
FINGER_SPEED = 0.06  # m/s at full force, by damping
TABLE_FRICTION = 0.4  # also between things
PAD_PATCH_M = 0.004  # radius of a soft pad's contact; times the friction, it gives the resistance to twisting
ROLLING_M = 0.0003  # resistance of things to rolling
HAND_KG, FINGER_KG, FINGER_GEAR_KG = 0.7, 0.05, 0.3
# Stiff contacts: with MuJoCo's defaults 30 N would press a light thing 6 mm into the pads.
CONTACT = {"solref": [0.006, 1.0], "solimp": [0.95, 0.99, 0.001, 0.5, 2.0]}
HAND_STIFFNESS, HAND_DAMPING = 8000.0, 150.0  # N/m, N s/m
HAND, FINGERS = "hand", ("finger_left", "finger_right")


@dataclass(frozen=True)
class World:
    """model; body ids of the scene's objects, in their order; hand and finger body ids."""

    model: Any
    things: tuple[int, ...]
    hand: int
    fingers: tuple[int, int]


def build_world(scene: Scene, gripper: Gripper, T_world_tips: Array, friction: float) -> World:
    """Build the model, the hand's tips at T_world_tips (4,4), the fingers shut.

    friction: Coulomb coefficient of the pads against anything.
    """
    spec = _table_with(scene)
    _add_hand(spec, gripper, T_world_tips, friction)
    model = spec.compile()
    body = {
        name: mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
        for name in (HAND, *FINGERS, *(f"thing_{i}" for i in range(len(scene.objects))))
    }
    return World(
        model,
        tuple(body[f"thing_{i}"] for i in range(len(scene.objects))),
        body[HAND],
        (body[FINGERS[0]], body[FINGERS[1]]),
    )


def settled(scene: Scene) -> Scene:
    """The scene at rest: a banana has come to rest on one of its sides, a ball has stopped rolling."""
    model = _table_with(scene).compile()
    data = mujoco.MjData(model)
    for step in range(int(SETTLE_S / STEP_S)):
        mujoco.mj_step(model, data)
        if step * STEP_S > 0.2 and np.abs(data.qvel).max() < CALM:
            break
    objects = []
    for i, thing in enumerate(scene.objects):
        T = make_transform(data.xmat[i + 1].reshape(3, 3), data.xpos[i + 1])
        mesh = thing.mesh.moved(T @ invert(thing.T_world_object))
        objects.append(replace(thing, T_world_object=T, mesh=mesh))
    return replace(scene, objects=tuple(objects))


def _table_with(scene: Scene) -> Any:
    spec = mujoco.MjSpec()
    spec.option.timestep = STEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0  # friction as stiff as the normal direction: nothing creeps out of the hand
    _add_table(spec, scene)
    for i, thing in enumerate(scene.objects):
        _add_thing(spec, f"thing_{i}", thing)
    return spec


def _add_table(spec: Any, scene: Scene) -> None:
    """An endless table, or in a room the top that is drawn there, with the floor below."""
    surface = {"friction": [TABLE_FRICTION, 0.002, ROLLING_M], "condim": 4, **CONTACT}
    plane = {"type": mujoco.mjtGeom.mjGEOM_PLANE, "size": [2, 2, 0.1], **surface}
    if scene.room is None:
        spec.worldbody.add_geom(name="table", **plane)
        return
    top = scene.room.top
    spec.worldbody.add_geom(name="floor", pos=[0, 0, top.floor], **plane)
    shape = mujoco.mjtGeom.mjGEOM_CYLINDER if top.round else mujoco.mjtGeom.mjGEOM_BOX
    half = [top.size[0] / 2, top.thickness / 2, 0] if top.round else [*(top.size / 2), top.thickness / 2]
    middle, turn = [*top.centre, -top.thickness / 2], [np.cos(top.turn / 2), 0, 0, np.sin(top.turn / 2)]
    spec.worldbody.add_geom(name="table", type=shape, size=half, pos=middle, quat=turn, **surface)


def _add_thing(spec: Any, name: str, thing: SimObject) -> None:
    """A body at its place in the world, free unless it is fixed, made of the convex pieces of its mesh."""
    T = thing.T_world_object
    body = spec.worldbody.add_body(name=name, pos=T[:3, 3], quat=_wxyz(T[:3, :3]))
    if not thing.fixed:
        body.add_freejoint()
    local = [(piece - T[:3, 3]) @ T[:3, :3] for piece in thing.mesh.solids]
    mass = MASS_KG[thing.kind] if thing.mass is None else thing.mass
    density = mass / sum(ConvexHull(piece).volume for piece in local)
    for k, piece in enumerate(local):
        mesh = spec.add_mesh(name=f"{name}_{k}")
        mesh.uservert = piece.ravel()
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=f"{name}_{k}",
            density=density,
            friction=[TABLE_FRICTION, 0.002, ROLLING_M],
            condim=6 if thing.kind in ("ball", "melon") or thing.mass is not None else 4,  # or it rolls
            **CONTACT,
        )


def _add_hand(spec: Any, gripper: Gripper, T: Array, friction: float) -> None:
    hand = spec.worldbody.add_body(name=HAND, pos=T[:3, 3], quat=_wxyz(T[:3, :3]), gravcomp=1)
    for axis in range(3):
        joint = hand.add_joint(
            name=f"hand_{'xyz'[axis]}",
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=np.eye(3)[axis],
            damping=[HAND_DAMPING, 0, 0],
        )
        _servo(spec, joint.name, HAND_STIFFNESS, 400.0)
    x, y, z = gripper.palm
    hand.add_geom(
        name="palm",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[x / 2, y / 2, z / 2],
        pos=[0, 0, -gripper.finger_length - z / 2],
        mass=HAND_KG,
        **CONTACT,
    )
    half = [gripper.finger_width / 2, gripper.finger_thickness / 2, gripper.finger_length / 2]
    for name, side in zip(FINGERS, (1, -1), strict=True):
        finger = hand.add_body(name=name, gravcomp=1)
        finger.add_joint(
            name=name,
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=[0, side, 0],
            range=[0, gripper.max_opening / 2],
            limited=True,
            damping=[FORCE_N / FINGER_SPEED, 0, 0],
            armature=FINGER_GEAR_KG,
        )
        finger.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=half,
            pos=[0, side * half[1], -half[2]],
            mass=FINGER_KG,
            priority=1,
            friction=[friction, friction * PAD_PATCH_M, ROLLING_M],
            condim=4,
            **CONTACT,
        )
        _servo(spec, name, 20_000.0, FORCE_N)
    coupling = spec.add_equality(
        type=mujoco.mjtEq.mjEQ_JOINT,
        objtype=mujoco.mjtObj.mjOBJ_JOINT,
        name1=FINGERS[0],
        name2=FINGERS[1],
        solref=[0.005, 1],
    )
    coupling.data[:2] = [0.0, 1.0]  # the one is where the other is


def _servo(spec: Any, joint: str, stiffness: float, force: float) -> None:
    """A position servo of limited force (N)."""
    servo = spec.add_actuator(
        name=joint,
        target=joint,
        trntype=mujoco.mjtTrn.mjTRN_JOINT,
        gainprm=[stiffness, *[0] * 9],
        biastype=mujoco.mjtBias.mjBIAS_AFFINE,
        biasprm=[0, -stiffness, *[0] * 8],
    )
    servo.forcelimited, servo.forcerange = True, [-force, force]


def _wxyz(rotation: Array) -> Array:
    x, y, z, w = quaternion_from_matrix(rotation)
    return np.array([w, x, y, z])
