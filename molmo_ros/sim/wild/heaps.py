"""Heaps: things dropped in MuJoCo, on the table or into a bin, until they come to rest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.transform import Rotation

from molmo_ros.datatypes import Array
from molmo_ros.errors import ParameterError
from molmo_ros.sim.wild.bodies import shift
from molmo_ros.sim.wild.boxes import open_box
from molmo_ros.sim.wild.shapes import OWN_KINDS, Shape, shape

STEP_S, LONGEST_S, CALM = 0.003, 2.5, 0.05  # coarse: for pictures, not for grasps; m/s and rad/s at rest
DENSITY = 350.0  # kg/m3
SECTORS, SLICES = 10, 2  # into which a hollow thing is cut
FALL_M = 0.07  # between things that fall one after the other
SOFT = ("cable", "cloth")  # kinds that a rigid body represents poorly
RIGID = tuple(k for k in OWN_KINDS if k not in SOFT)
RINGS = ("ring", "tape")
_KEPT = 200


@lru_cache(maxsize=_KEPT)
def heap(index: int, first: int, count: int) -> tuple[tuple[Shape, Array], ...]:
    """The heap number `index`, of individuals first to first + count: things with T_world_object (4,4).

    A third of the heaps lie in a bin, which is the first of their things (kind "bin").
    """
    rng = np.random.default_rng([index, 77])
    return dropped(rng, range(first, first + count), 0.35, (4, 13))


def dropped(
    rng: np.random.Generator,
    numbers: Sequence[int],
    in_bin: float,
    things: tuple[int, int],
    kinds: Sequence[str] = RIGID,
) -> tuple[tuple[Shape, Array], ...]:
    """A new heap, drawn from rng: a number of things from things[0] up to things[1] - 1 with T_world_object
    (4,4). in_bin is the probability that they lie in a bin, which then comes first.
    """
    box = bin_shape(rng) if rng.random() < in_bin else None
    placed = drop(rng, draw_things(rng, int(rng.integers(*things)), numbers, kinds), box)
    return (*([(box, np.eye(4))] if box is not None else []), *placed)


def bin_shape(rng: np.random.Generator) -> Shape:
    """A bin with walls."""
    size = np.array([rng.uniform(0.22, 0.45), rng.uniform(0.18, 0.34), rng.uniform(0.05, 0.16)])
    body = open_box(size, float(rng.uniform(0.004, 0.012)))
    return Shape("bin", body, np.eye(4)[None], np.ones(1), body.vertices, True, False)


def draw_things(
    rng: np.random.Generator, count: int, numbers: Sequence[int], kinds: Sequence[str] = RIGID
) -> list[Shape]:
    """Shapes to be dropped: rigid ones, not all of them hollow (they are costly)."""
    things: list[Shape] = []
    while len(things) < count:
        made = shape(kinds[int(rng.integers(len(kinds)))], int(numbers[int(rng.integers(len(numbers)))]))
        if not made.hollow or sum(t.hollow for t in things) < 2:
            things.append(made)
    return things


def drop(rng: np.random.Generator, things: list[Shape], box: Shape | None) -> list[tuple[Shape, Array]]:
    """Let things fall around the origin, into a bin if there is one; those that roll away are left out.

    Returns the things with T_world_object (4,4), at rest or nearly so.
    """
    mujoco = _mujoco()
    spec = mujoco.MjSpec()
    spec.option.timestep = STEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1], friction=[0.6, 0.01, 0.001])
    half = np.array([0.05, 0.05]) if box is None else np.ptp(box.mesh.vertices, axis=0)[:2] * 0.28
    if box is not None:
        _add_pieces(mujoco, spec, spec.worldbody, "bin", box.mesh.solids)
    height = 0.02 if box is None else float(np.ptp(box.mesh.vertices[:, 2]))
    for k, thing in enumerate(things):
        size = float(np.ptp(thing.mesh.vertices, axis=0).max())
        turn = Rotation.random(random_state=int(rng.integers(2**31)))
        x, y = rng.uniform(-half, half)
        middle = thing.mesh.vertices.mean(axis=0)
        place = np.array([x, y, height + size / 2]) - turn.apply(middle)
        body = spec.worldbody.add_body(name=f"thing_{k}", pos=place, quat=np.roll(turn.as_quat(), 1))
        body.add_freejoint()
        _add_pieces(mujoco, spec, body, f"thing_{k}", coarse_pieces(thing))
        height += FALL_M + 0.25 * size
    model = spec.compile()
    data = mujoco.MjData(model)
    for step in range(int(LONGEST_S / STEP_S)):
        mujoco.mj_step(model, data)
        if step * STEP_S > 0.6 and step % 20 == 0 and np.abs(data.qvel).max() < CALM:
            break
    first = model.nbody - len(things)
    poses = []
    for k, thing in enumerate(things):
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = data.xmat[first + k].reshape(3, 3), data.xpos[first + k]
        poses.append((thing, T))
    return [(thing, T) for thing, T in poses if _stayed(thing, T, box)]


def coarse_pieces(thing: Shape, sectors: int = SECTORS, slices: int = SLICES) -> tuple[Array, ...]:
    """A body as few convex pieces (K,3): hollow ones cut by angle and height, others as made or one hull."""
    solids = thing.mesh.solids
    if len(solids) <= SECTORS:
        return solids
    if not thing.hollow and thing.kind not in RINGS:
        return (thing.mesh.vertices,)
    middles = np.array([s.mean(axis=0) for s in solids])
    low, high = middles[:, 2].min(), middles[:, 2].max()
    level = np.minimum((slices * (middles[:, 2] - low) / max(high - low, 1e-6)).astype(int), slices - 1)
    angle = np.arctan2(middles[:, 1], middles[:, 0]) / (2 * np.pi) % 1
    key = level * sectors + (sectors * angle + 1e-6).astype(int) % sectors
    full = np.hypot(middles[:, 0], middles[:, 1]) < 0.003
    joined = [
        np.concatenate([solids[i] for i in np.flatnonzero(~full & (key == k))]) for k in np.unique(key[~full])
    ]
    return (*(solids[i] for i in np.flatnonzero(full)), *joined)


def _add_pieces(mujoco: Any, spec: Any, body: Any, name: str, pieces: Sequence[Array]) -> None:
    for k, piece in enumerate(pieces):
        corners = _corners(piece)
        if corners is None:
            continue
        mesh = spec.add_mesh(name=f"{name}_{k}")
        mesh.uservert = corners.ravel()
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=f"{name}_{k}",
            density=DENSITY,
            friction=[0.6, 0.01, 0.001],
            condim=4,
            solref=[0.01, 1.0],
        )


def _corners(piece: Array) -> Array | None:
    """The corners of a piece's hull; None if it has no volume."""
    try:
        return np.asarray(piece[ConvexHull(piece).vertices])
    except QhullError:
        return None


def _stayed(thing: Shape, T: Array, box: Shape | None) -> bool:
    """Tell whether a thing lies where it was dropped, above the table, and within the bin if there is one."""
    points = thing.points @ T[:3, :3].T + T[:3, 3]
    middle = points.mean(axis=0)
    if points[:, 2].min() < -0.008:
        return False
    if box is None:
        return bool(np.hypot(middle[0], middle[1]) < 0.4)
    half = np.ptp(box.mesh.vertices, axis=0)[:2] / 2
    return bool((np.abs(middle[:2]) < half).all())


def moved(
    placed: Sequence[tuple[Shape, Array]], x: float, y: float, turn: Array
) -> list[tuple[Shape, Array]]:
    """The heap elsewhere on the table; turn (4,4), about z."""
    T = shift(x, y, 0.0) @ turn
    return [(thing, T @ pose) for thing, pose in placed]


def _mujoco() -> Any:
    try:
        import mujoco
    except ImportError as error:
        raise ParameterError(
            "Heaps are dropped in MuJoCo, which is not installed: pip install mujoco, or ask for physics=0."
        ) from error
    return mujoco
