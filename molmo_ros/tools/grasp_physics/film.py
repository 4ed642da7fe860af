"""Pictures of a grasp in physics, drawn by the simulated camera's ray caster: no OpenGL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from molmo_ros.datatypes import Array, Grasp, Image
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.sim import mesh
from molmo_ros.sim.mesh import Mesh
from molmo_ros.sim.render import Renderer
from molmo_ros.sim.scene import Scene, SimObject, look_at
from molmo_ros.tools.grasp_physics.trial import FRICTION, Outcome, try_grasp
from molmo_ros.transforms import invert, make_transform, pose_matrix

ABOVE = np.radians(18.0)  # of the pictures from the side
Shots = dict[str, Scene]  # by stage: everything where it was at the stage's end, the hand last


def film(
    scene: Scene, target: int, grasp: Grasp, gripper: Gripper, friction: float = FRICTION
) -> tuple[Outcome, Shots]:
    """Execute a grasp and keep how everything stood at the end of each stage."""
    last: dict[str, tuple[Array, Array]] = {}

    def watch(stage: str, data: Any) -> None:
        last[stage] = np.array(data.xpos), np.array(data.xmat).reshape(-1, 3, 3)

    outcome = try_grasp(scene, target, grasp, gripper, friction, watch=watch)
    return outcome, {stage: _scene_at(scene, gripper, *poses) for stage, poses in last.items()}


def _scene_at(scene: Scene, gripper: Gripper, places: Array, turns: Array) -> Scene:
    """The scene with bodies 1..N at their places, and after them the hand, and its two fingers."""
    count, objects = len(scene.objects), []
    for i, thing in enumerate(scene.objects):
        T = make_transform(turns[i + 1], places[i + 1])
        objects.append(replace(thing, mesh=thing.mesh.moved(T @ invert(thing.T_world_object))))
    for part, body in zip(hand_parts(gripper), range(count + 1, count + 4), strict=True):
        T = make_transform(turns[body], places[body])
        objects.append(SimObject("hand", "white", T, part.moved(T)))
    return replace(scene, objects=tuple(objects))


def hand_parts(gripper: Gripper) -> tuple[Mesh, Mesh, Mesh]:
    """Palm and fingers as in the physics, each in its own body's frame."""
    x, y, z = gripper.palm
    palm = mesh.box((x, y, z)).moved(_at(0, 0, -gripper.finger_length - z))
    finger = mesh.box((gripper.finger_width, gripper.finger_thickness, gripper.finger_length))
    out = gripper.finger_thickness / 2
    left, right = (finger.moved(_at(0, side * out, -gripper.finger_length)) for side in (1, -1))
    return palm, left, right


def hand_at(scene: Scene, grasp: Grasp, gripper: Gripper) -> Scene:
    """The scene with the hand where a grasp wants it, open."""
    T, parts = pose_matrix(grasp.pose), hand_parts(gripper)
    opened = [_at(0, 0, 0), _at(0, grasp.opening / 2, 0), _at(0, -grasp.opening / 2, 0)]
    hand = [SimObject("hand", "white", T, p.moved(T @ o)) for p, o in zip(parts, opened, strict=True)]
    return replace(scene, objects=(*scene.objects, *hand))


def strip(scene: Scene, target: int, grasp: Grasp, gripper: Gripper, size: tuple[int, int]) -> Image:
    """Five pictures side by side: open at the pregrasp, at the grasp, closed, lifted, after shaking."""
    _, shots = film(scene, target, grasp, gripper)
    first = hand_at(scene, replace(grasp, pose=grasp.pregrasp), gripper)
    view = side_view(scene, grasp, target, size, rise=0.09, distance=0.75)
    frames = [first, *(shots[stage] for stage in ("approach", "close", "lift", "shake"))]
    return np.concatenate([Renderer(s, 1).render(_intrinsics(size), *size, view).rgb for s in frames], axis=1)


def from_the_side(scene: Scene, grasp: Grasp | None, target: int, size: tuple[int, int]) -> Image:
    """Look at the target across the closing direction, from a little above, so that both fingers show."""
    view = side_view(scene, grasp, target, size)
    return Renderer(scene, 1).render(_intrinsics(size), *size, view).rgb


def side_view(
    scene: Scene,
    grasp: Grasp | None,
    target: int,
    size: tuple[int, int],
    rise: float = 0.03,
    distance: float = 0.5,
) -> Array:
    """T_world_camera (4,4) on the side that hides less of the target; looks `rise` m above its middle."""
    vertices = scene.objects[target].mesh.vertices
    focus = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    across = np.array([1.0, 0.0, 0.0])
    if grasp is not None:
        R = pose_matrix(grasp.pose)[:3, :3]
        across = np.array([-R[1, 1], R[0, 1], 0.0])
        across = across if np.linalg.norm(across) > 0.3 else R[:, 0] * [1, 1, 0]
    across = across / np.linalg.norm(across) * np.cos(ABOVE)
    focus[2] += rise
    up = np.array([0, 0, np.sin(ABOVE)])
    views = [look_at(focus + distance * (side * across + up), focus) for side in (1, -1)]
    renderer = Renderer(scene, 1)
    shown = [np.count_nonzero(renderer.ids(_intrinsics(size), *size, T) == target + 1) for T in views]
    return views[int(np.argmax(shown))]


def _intrinsics(size: tuple[int, int]) -> Array:
    f = 1.6 * size[0]
    return np.array([[f, 0, size[0] / 2], [0, f, size[1] / 2], [0, 0, 1.0]])


def _at(x: float, y: float, z: float) -> Array:
    T = np.eye(4)
    T[:3, 3] = x, y, z
    return T
