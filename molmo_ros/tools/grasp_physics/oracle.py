"""Can this target be grasped at all? Brute force with the true meshes, tried in the same physics."""

from __future__ import annotations

from typing import Any

import numpy as np

from molmo_ros.datatypes import Array, Grasp, Mask
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.sim.mesh import Mesh
from molmo_ros.sim.scene import Scene
from molmo_ros.tools.grasp_physics.trial import FRICTION, try_grasp
from molmo_ros.transforms import make_transform, pose_from_matrix, unit

POINTS, TURNS = 500, 10  # surface points of the target, and approaches for each pair of contacts
CROSSINGS = 4  # of a line with the target: through a wall, and through the whole of a hollow thing
SLANT = np.radians(15.0)  # of the closing direction to the normal, at most
REACHES_M = (0.004, 0.010, 0.018)  # of the tips beyond the contacts
SLACKS_M = (0.003, 0.010)  # of the opening, in addition to the widest
SCENE_POINTS, SPACE_M = 9000, 0.0005
FIXED_POINTS = 12_000  # on a bin, which is large
TRAVEL_M, TABLE_M = 0.10, 0.0015
TRIALS = 40
STRIDE = 100  # points are checked against hands a hundredth at a time


def find_grasp(
    scene: Scene, target: int, gripper: Gripper, seed: int = 0, friction: float = FRICTION
) -> Grasp | None:
    """Return a grasp that touches nothing before it closes, and holds; None if none of TRIALS does."""
    rng = np.random.default_rng([seed, 7])
    (rotation, tips, opening, width), free = free_hands(scene, target, gripper, rng)
    for k in rng.permutation(free)[:TRIALS]:
        T = make_transform(rotation[k], tips[k])
        back = make_transform(rotation[k], tips[k] - TRAVEL_M * rotation[k][:, 2])
        grasp = Grasp(pose_from_matrix(T), pose_from_matrix(back), float(width[k]), 1.0, float(opening[k]))
        outcome = try_grasp(scene, target, grasp, gripper, friction)
        if outcome.held and not outcome.touched:
            return grasp
    return None


def free_hands(
    scene: Scene, target: int, gripper: Gripper, rng: np.random.Generator, contacts: int = POINTS
) -> tuple[tuple[Array, Array, Array, Array], np.ndarray]:
    """Hands on true contacts, as from candidates(), and indices of those that hit nothing on their way in."""
    hands = candidates(scene.objects[target].mesh, gripper, rng, contacts)
    each = SCENE_POINTS // len(scene.objects)
    points = [_surface(o.mesh, FIXED_POINTS if o.fixed else each, rng)[0] for o in scene.objects]
    return hands, np.flatnonzero(_free(np.concatenate(points), *hands[:3], gripper))


def candidates(
    target: Mesh, gripper: Gripper, rng: np.random.Generator, contacts: int = POINTS
) -> tuple[Array, Array, Array, Array]:
    """Hands on pairs of true contacts: rotation (C,3,3), tips (C,3), opening (C,), width (C,), metres.

    contacts: how many points of the surface are tried.
    """
    points, normals = _surface(target, contacts, rng)
    y = unit(-normals + np.tan(SLANT) * rng.uniform(-1, 1, normals.shape))
    rows = []
    for point, closing, width in _pairs(target, points, y, gripper.max_opening - SLACKS_M[0]):
        angle = rng.uniform(0, 2 * np.pi, TURNS)
        side = unit(np.cross(closing, np.eye(3)[int(np.argmin(np.abs(closing)))]))
        z = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * np.cross(closing, side)
        z = z[z[:, 2] < 0.1]  # no hand comes out of the table
        openings = [min(width + 2 * slack, gripper.max_opening) for slack in SLACKS_M]
        for approach in z:
            R = np.stack([np.cross(closing, approach), closing, approach], axis=1)
            reach, opening = rng.choice(REACHES_M), rng.choice([*openings, gripper.max_opening])
            tips = point + closing * width / 2 + reach * approach
            low = _lowest(R, tips, float(opening), gripper)
            lift = max(TABLE_M - low, 0.0) / max(-approach[2], 0.05)
            if lift < reach + gripper.pad_length / 2:
                rows.append((R, tips - lift * approach, opening, width))
    if not rows:
        return np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0)
    R_all, tips_all, openings_all, widths = (np.array(column) for column in zip(*rows, strict=True))
    return R_all, tips_all, openings_all, widths


def _pairs(target: Mesh, points: Array, y: Array, widest: float) -> list[tuple[Array, Array, float]]:
    """Contacts opposite each other: (point (3,), closing direction (3,), width m)."""
    caster, o3d = _caster(target)
    pairs = []
    start, travelled = points + 1e-4 * y, np.full(len(points), 1e-4)
    for crossing in range(CROSSINGS):
        rays = np.concatenate([start, y], axis=1).astype(np.float32)
        t = caster.cast_rays(o3d.core.Tensor.from_numpy(rays))["t_hit"].numpy().astype(np.float64)
        travelled = travelled + t
        if crossing % 2 == 0:  # leaving the material
            good = np.isfinite(travelled) & (travelled < widest)
            pairs += [(points[i], y[i], float(travelled[i])) for i in np.flatnonzero(good)]
        start = np.where(np.isfinite(t)[:, None], start + (t[:, None] + 1e-4) * y, 1e3)
        travelled += 1e-4
    return pairs


def _caster(m: Mesh) -> tuple[Any, Any]:
    import open3d as o3d

    caster = o3d.t.geometry.RaycastingScene(nthreads=1)
    caster.add_triangles(
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(m.vertices, np.float32)),
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(m.faces, np.uint32)),
    )
    return caster, o3d


def _surface(m: Mesh, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Points (count,3) spread evenly over a mesh, and the outward normals of their faces."""
    corners = m.vertices[m.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    face = rng.choice(len(area), count, p=area / area.sum())
    a, b = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - a, a * (1 - b), a * b], axis=1)
    normal = cross[face] / area[face, None]
    outward = m.normals[m.faces[face]].mean(axis=1)
    normal = np.where(np.sum(normal * outward, axis=1, keepdims=True) < 0, -normal, normal)
    return np.einsum("nc,ncd->nd", weights, corners[face]), normal


def _boxes(opening: Array, gripper: Gripper) -> tuple[Array, Array]:
    """The hand and its approach path, in the grasp frame: low and high corners (C,3 boxes,3)."""
    x, thick = gripper.finger_width / 2, gripper.finger_thickness
    palm_x, palm_y, palm_z = gripper.palm[0] / 2, gripper.palm[1] / 2, gripper.palm[2]
    half, back = opening / 2, -gripper.finger_length
    none, far = np.zeros_like(half), np.full_like(half, -(gripper.finger_length + palm_z + TRAVEL_M))
    ones = np.ones_like(half)
    low = [
        [-x * ones, half, back - TRAVEL_M * ones],
        [-x * ones, -half - thick, back - TRAVEL_M * ones],
        [-palm_x * ones, -palm_y * ones, far],
    ]
    high = [
        [x * ones, half + thick, none],
        [x * ones, -half, none],
        [palm_x * ones, palm_y * ones, back * ones],
    ]
    return np.moveaxis(np.array(low), 2, 0), np.moveaxis(np.array(high), 2, 0)


def _lowest(R: Array, tips: Array, opening: float, gripper: Gripper) -> float:
    """Height (m) of the lowest corner of fingers and palm."""
    low, high = _boxes(np.array([opening]), gripper)
    low, high = low[0], high[0]
    low = np.maximum(low, -(gripper.finger_length + gripper.palm[2]))  # without the approach path
    corners = np.where(np.indices((2, 2, 2)).reshape(3, 8).T[:, None], high, low).reshape(-1, 3)
    return float((tips + corners @ R.T)[:, 2].min())


def _free(points: Array, R: Array, tips: Array, opening: Array, gripper: Gripper) -> Mask:
    """Tell which hands (C,) hit no surface point (N,3) on their way in.

    Most hands hit some of the first points, so only the others are checked against all of them.
    """
    low, high = _boxes(opening, gripper)
    free = np.arange(len(R))
    for first in range(STRIDE):
        near = points[first::STRIDE]
        local = np.einsum("cji,cnj->cni", R[free], near[None] - tips[free, None])[:, None]
        inside = (local > low[free, :, None] - SPACE_M) & (local < high[free, :, None] + SPACE_M)
        free = free[~inside.all(axis=-1).any(axis=(1, 2))]
    found = np.zeros(len(R), dtype=np.bool_)
    found[free] = True
    return found
