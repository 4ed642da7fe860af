from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from solids import Solid, View, block, can, clearance, closes_on, cup, look, roll, sphere, to_camera

from molmo_ros.datatypes import Grasp
from molmo_ros.errors import GraspError
from molmo_ros.grasp.candidates import pair_candidates
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.planner import plan_grasps
from molmo_ros.perception.complete import complete_shape
from molmo_ros.transforms import matrix_from_quaternion, pose_matrix

FRANKA = Gripper.load("franka_hand")
CONE = np.cos(np.radians(28))

# what is held, and how wide it is there, if that is one number
HELD: dict[str, tuple[Solid, float | None]] = {
    "box": (block(0, 0, (0.04, 0.12, 0.05), yaw=0.6), 0.04),
    "cube": (block(0, 0, (0.05, 0.05, 0.05), yaw=0.2), 0.05),
    "tall box": (block(0, 0, (0.05, 0.07, 0.19), yaw=1.0), None),
    "can": (can(0, 0, 0.033, 0.11), 0.066),
    "ball": (sphere(0, 0, 0.03), 0.06),
    "lying can": (roll(0, 0, 0.025, 0.12, yaw=0.9), 0.05),
    "large ball": (sphere(0, 0, 0.038), 0.076),  # at its equator: above it, closing pushes it out
    "pen": (roll(0, 0, 0.0055, 0.14, yaw=0.4), 0.011),
    "phone": (block(0, 0, (0.055, 0.13, 0.010), yaw=0.5), 0.055),
    "marker": (roll(0, 0, 0.008, 0.13, yaw=0.4), 0.016),
    "flat box": (block(0, 0, (0.05, 0.09, 0.015), yaw=0.3), 0.05),
    "cup": (cup(0, 0, 0.045, 0.09), 0.004),  # wider than the hand: by the rim
    "bowl": (cup(0, 0, 0.07, 0.05, wall=0.005), 0.005),
}


def best(view: View, gripper: Gripper = FRANKA) -> Grasp:
    return plan_grasps(view.segment(), view.lifted(), gripper, view.up)[0]


@pytest.fixture(scope="module", params=list(HELD))
def held(request: pytest.FixtureRequest) -> tuple[View, Grasp, float | None]:
    solid, width = HELD[request.param]
    view = look(solid, noise=1)
    return view, best(view), width


def test_the_hand_touches_nothing(held: tuple[View, Grasp, float | None]) -> None:
    view, grasp, _ = held
    assert clearance(view, grasp, FRANKA) > 0
    for withdrawn in (0.03, 0.06, 0.10):  # on the way in
        assert clearance(view, grasp, FRANKA, withdrawn) > 0


def test_the_fingers_close_on_opposite_faces(held: tuple[View, Grasp, float | None]) -> None:
    view, grasp, width = held
    true_width, cosine = closes_on(view, grasp)
    assert cosine > CONE
    assert 0 < grasp.width <= grasp.opening <= FRANKA.max_opening + 1e-9
    assert grasp.width == pytest.approx(true_width, abs=0.006)
    if width is not None:
        assert true_width == pytest.approx(width, abs=0.004)


def test_the_frame_is_as_documented(held: tuple[View, Grasp, float | None]) -> None:
    view, grasp, _ = held
    R = matrix_from_quaternion(grasp.pose.orientation)
    assert np.cross(R[:, 1], R[:, 2]) == pytest.approx(R[:, 0])
    assert R[:, 2] @ view.up < 0.3  # never from below
    back = grasp.pose.position - grasp.pregrasp.position
    assert back == pytest.approx(0.10 * R[:, 2])
    assert grasp.pregrasp.orientation == pytest.approx(grasp.pose.orientation)
    assert 0 < grasp.quality <= 1


@pytest.mark.parametrize("name", ["box", "can", "lying can"])
@pytest.mark.parametrize("azimuth", [20.0, 110.0, 290.0])
@pytest.mark.parametrize("elevation", [35.0, 85.0])
def test_from_everywhere(name: str, azimuth: float, elevation: float) -> None:
    view = look(HELD[name][0], azimuth_deg=azimuth, elevation_deg=elevation, noise=1)
    grasp = best(view)
    assert clearance(view, grasp, FRANKA) > -0.001
    assert closes_on(view, grasp)[1] > CONE


@pytest.mark.parametrize("name", ["robotiq_2f_85", "robotiq_2f_140"])
def test_other_grippers(name: str) -> None:
    gripper = Gripper.load(name)
    view = look(HELD["box"][0], noise=1)
    grasp = best(view, gripper)
    assert clearance(view, grasp, gripper) > 0
    assert closes_on(view, grasp)[1] > CONE


def test_too_wide_for_one_is_held_by_a_wider_one() -> None:
    view = look(block(0, 0, (0.11, 0.12, 0.10)), noise=1)
    with pytest.raises(GraspError, match=r"1\d\d mm wide .* franka_hand opens 80 mm") as caught:
        best(view)
    assert caught.value.code == "TOO_WIDE"
    grasp = best(view, Gripper.load("robotiq_2f_140"))
    assert min(abs(grasp.width - side) for side in (0.11, 0.12)) < 0.006


def test_walled_in_is_a_collision() -> None:
    view = look(
        block(0, 0, (0.05, 0.05, 0.05)),
        *(block(x, y, (0.05, 0.05, 0.05)) for x in (-0.056, 0, 0.056) for y in (-0.056, 0, 0.056) if x or y),
        elevation_deg=80,
        noise=0.5,
    )
    segment = view.segment()
    only = view.mask()
    near = segment.cloud_m[view.world(segment.cloud_m)[:, 2] > 0]
    own = np.abs(view.solids[0](view.world(near))) < 0.003
    # whatever the clustering made of the touching blocks: here the object is the one in the middle
    walled = replace(
        segment,
        mask=only,
        cloud_m=near[own],
        colors=segment.colors[own],
        scene_m=np.concatenate([near[~own], segment.scene_m]),
    )
    with pytest.raises(GraspError, match=r"None of \d+ grasps .*(neighbour|opening)") as caught:
        plan_grasps(walled, view.lifted(), FRANKA, view.up)
    assert caught.value.code == "COLLISION"


def test_a_neighbour_is_avoided() -> None:
    """A wall beside the box leaves only the directions along it."""
    view = look(block(0, 0, (0.05, 0.06, 0.06)), block(0.045, 0, (0.02, 0.2, 0.12)), azimuth_deg=150, noise=1)
    grasp = best(view)
    assert clearance(view, grasp, FRANKA) > 0
    assert closes_on(view, grasp)[0] == pytest.approx(0.06, abs=0.004)


def test_what_was_asked_for_draws_the_hand() -> None:
    view = look(roll(0, 0, 0.02, 0.2), noise=1, distance=0.6)
    segment, reached = view.segment(), []
    for x in (-0.09, 0.09):
        asked = replace(view.lifted(), position=to_camera(view, [x, 0, 0.04]))
        reached.append(view.world(plan_grasps(segment, asked, FRANKA, view.up)[0].pose.position)[0])
    assert reached[0] < reached[1] - 0.01


def test_an_arm_that_cannot_lean_gets_grasps_from_above() -> None:
    view = look(HELD["box"][0], noise=1)
    segment, lifted = view.segment(), view.lifted()

    def leans(max_tilt_deg: float) -> list[float]:
        grasps = plan_grasps(segment, lifted, FRANKA, view.up, max_grasps=50, max_tilt_deg=max_tilt_deg)
        down = [-matrix_from_quaternion(g.pose.orientation)[:, 2] @ view.up for g in grasps]
        return [float(np.degrees(np.arccos(np.clip(d, -1, 1)))) for d in down]

    assert max(leans(180.0)) > 20
    assert max(leans(20.0)) < 22  # the support is known to a degree or so


def test_several_grasps_are_ranked_and_different() -> None:
    view = look(HELD["box"][0], noise=1)
    segment, lifted = view.segment(), view.lifted()
    grasps = plan_grasps(segment, lifted, FRANKA, view.up, max_grasps=5)
    assert 2 <= len(grasps) <= 5
    assert [g.quality for g in grasps] == sorted((g.quality for g in grasps), reverse=True)
    for k, a in enumerate(grasps):
        for b in grasps[:k]:
            far = np.linalg.norm(a.pose.position - b.pose.position) >= 0.03
            Ra, Rb = pose_matrix(a.pose)[:3, :3], pose_matrix(b.pose)[:3, :3]
            turned = [np.trace(Ra.T @ Rb @ f) for f in (np.eye(3), np.diag([-1, -1, 1]))]
            assert far or max(turned) < 1 + 2 * np.cos(np.radians(29))
    first = plan_grasps(segment, lifted, FRANKA, view.up)[0]
    assert np.array_equal(first.pose.position, grasps[0].pose.position)  # and the same every time


def test_the_shape_may_be_handed_in() -> None:
    view = look(HELD["can"][0], noise=1)
    segment = view.segment()
    views = complete_shape(segment, view.up)
    direct = plan_grasps(segment, view.lifted(), FRANKA, view.up)[0]
    handed = plan_grasps(segment, view.lifted(), FRANKA, view.up, views=views)[0]
    assert np.array_equal(direct.pose.position, handed.pose.position)


def test_without_a_known_support_there_is_still_a_grasp() -> None:
    view = look(HELD["can"][0], noise=1)
    grasp = plan_grasps(replace(view.segment(), plane=None), view.lifted(), FRANKA, view.up)[0]
    assert closes_on(view, grasp)[1] > CONE


def test_a_hand_that_closes_up_and_down_comes_from_the_side() -> None:
    """A shelf whose upper and lower faces are known: pairs of points straight above each other, or nearly."""
    x, y = (g.ravel() for g in np.meshgrid(*[np.arange(-0.03, 0.03, 0.004)] * 2))
    upper = np.stack([x, y, np.full(len(x), 0.13)], axis=1)
    up = np.broadcast_to([0.0, 0.0, 1.0], upper.shape)
    view = look(block(0, 0, (0.06, 0.06, 0.03)))
    shape = replace(
        complete_shape(view.segment(), view.up).coarse,
        points=np.concatenate([upper, upper - 0.03 * up]),
        normals=np.concatenate([up, -up]),
        seen=np.ones(2 * len(x), dtype=np.bool_),
    )
    R = pair_candidates(shape, FRANKA).rotation
    steep = np.abs(R[:, 2, 1]) > 0.99
    assert np.count_nonzero(steep) > 0
    assert R.transpose(0, 2, 1) @ R == pytest.approx(np.broadcast_to(np.eye(3), R.shape), abs=1e-6)
    assert np.abs(R[steep, 2, 2]).min() < 0.1
