"""The way from a pixel to a grasp on rendered scenes, judged by the true meshes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from solids import hand_points

from molmo_ros.datatypes import Array, Grasp, ImagePoint
from molmo_ros.errors import GraspError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.planner import plan_grasps
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.segment import segment_object
from molmo_ros.transforms import pose_matrix, transform_points

o3d = pytest.importorskip("open3d", reason="the simulated camera casts rays with open3d")

FRANKA = Gripper.load("franka_hand")
SCENES = range(1000, 1008)


@dataclass(frozen=True)
class Trial:
    """What came of one object; hit is the share of the hand inside true things, low its height, m."""

    name: str
    depth_error: float
    ambiguity: float
    iou: float
    refused: str = ""
    hit: float = 0.0
    low: float = 1.0
    width_error: float = 0.0
    cosine: float = 1.0


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    from molmo_ros.sim import SimCamera

    done = []
    for seed in SCENES:
        camera = SimCamera(seed, threads=1)
        frame, truth = camera.frame(), camera.truth
        up = truth.T_world_camera[2, :3]
        casters = [_caster(thing.mesh) for thing in truth.objects]
        for k, thing in enumerate(truth.objects):
            mask = truth.ids == k + 1
            v, u = np.nonzero(mask)
            middle = int(np.argmin((v - v.mean()) ** 2 + (u - u.mean()) ** 2))
            point = ImagePoint(float(u[middle]), float(v[middle]), thing.name)
            lifted = lift_point(frame, point)
            segment = segment_object(frame, point, lifted, up)
            seen = (
                thing.name,
                abs(float(lifted.position[2] - truth.depth[v[middle], u[middle]])),
                lifted.ambiguity,
                float(np.count_nonzero(segment.mask & mask) / np.count_nonzero(segment.mask | mask)),
            )
            try:
                grasp = plan_grasps(segment, lifted, FRANKA, up)[0]
            except GraspError as error:
                done.append(Trial(*seen, refused=error.code))
            else:
                done.append(Trial(*seen, "", *_judge(grasp, truth.T_world_camera, casters, k)))
    return done


def _caster(mesh: object) -> object:
    caster = o3d.t.geometry.RaycastingScene(nthreads=1)
    caster.add_triangles(_tensor(mesh.vertices), o3d.core.Tensor(np.ascontiguousarray(mesh.faces, np.uint32)))  # type: ignore[attr-defined]
    return caster


def _tensor(values: Array) -> object:
    return o3d.core.Tensor(np.ascontiguousarray(values, np.float32))


def _judge(grasp: Grasp, T_world_camera: Array, casters: list, k: int) -> tuple[float, float, float, float]:
    """Return the share of the hand inside things, its height, the error of the width, the worse cosine."""
    T = T_world_camera @ pose_matrix(grasp.pose)
    hand = transform_points(T, hand_points(FRANKA, grasp.opening))
    hit = max(float(c.compute_occupancy(_tensor(hand)).numpy().mean()) for c in casters)
    x, z = (g.ravel() for g in np.meshgrid(np.linspace(-0.01, 0.01, 7), np.linspace(-0.018, 0, 10)))
    gaps, cosines = [], []
    for side in (1, -1):  # close the fingers: the first thing each meets
        start = np.column_stack([x, np.full_like(x, side * grasp.opening / 2), z])
        ray = np.broadcast_to(-side * T[:3, 1], start.shape)
        cast = casters[k].cast_rays(_tensor(np.concatenate([transform_points(T, start), ray], axis=1)))
        gap = cast["t_hit"].numpy()
        first = gap < gap.min() + 0.002
        gaps.append(float(gap.min()))
        cosines.append(float(np.abs(cast["primitive_normals"].numpy()[first] @ T[:3, 1]).mean()))
    return hit, float(hand[:, 2].min()), grasp.width - (grasp.opening - sum(gaps)), min(cosines)


def test_positions_lie_on_the_surface(trials: list[Trial]) -> None:
    assert len(trials) > 20
    assert np.median([t.depth_error for t in trials]) < 0.001
    wrong = [t for t in trials if t.depth_error > 0.010]
    assert len(wrong) <= 0.05 * len(trials)
    assert all(t.ambiguity > 0.05 for t in wrong), wrong  # and it is told


def test_objects_are_separated(trials: list[Trial]) -> None:
    assert np.mean([t.iou for t in trials]) > 0.88
    assert np.quantile([t.iou for t in trials], 0.1) > 0.75


def test_nearly_all_can_be_grasped(trials: list[Trial]) -> None:
    assert np.mean([t.refused != "" for t in trials]) <= 0.1


def test_the_hand_keeps_clear_of_the_true_things(trials: list[Trial]) -> None:
    planned = [t for t in trials if not t.refused]
    assert all(t.low > 0 for t in planned)
    assert max(t.hit for t in planned) < 0.05, max(planned, key=lambda t: t.hit)
    # balls as wide as the hand opens leave less room than the far side is known to
    assert np.mean([t.hit > 0 for t in planned]) < 0.2


def test_the_fingers_meet_opposite_faces(trials: list[Trial]) -> None:
    planned = [t for t in trials if not t.refused]
    assert np.mean([t.cosine > np.cos(np.radians(28)) for t in planned]) > 0.85
    assert np.median([abs(t.width_error) for t in planned]) < 0.003
