"""What makes grasps fail that look good: each test fails without its fix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from solids import Solid, View, block, can, clearance, closes_on, cup, hand_points, look, roll, sphere

from molmo_ros.datatypes import Array, Grasp, ImagePoint
from molmo_ros.errors import GraspError
from molmo_ros.grasp.candidates import Candidates
from molmo_ros.grasp.collision import check
from molmo_ros.grasp.fits import Fits
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.planner import plan_grasps
from molmo_ros.grasp.score import known_opening, score
from molmo_ros.perception.complete import Shape, complete_shape
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.segment import segment_object
from molmo_ros.transforms import invert, pose_matrix, transform_points

FRANKA = Gripper.load("franka_hand")


def best(view: View) -> Grasp:
    return plan_grasps(view.segment(), view.lifted(), FRANKA, view.up)[0]


def both(*solids: Solid) -> Solid:
    """Several solids as one."""
    return lambda p: np.min([solid(p) for solid in solids], axis=0)


def distances(view: View, grasp: Grasp) -> Array:
    """Return the least distance (m) of the open hand to each solid, and last to the table."""
    points = view.world(transform_points(pose_matrix(grasp.pose), hand_points(FRANKA, grasp.opening)))
    return np.array([*(solid(points).min() for solid in view.solids), points[:, 2].min()])


@pytest.mark.parametrize("azimuth", [15.0, 100.0, 195.0, 280.0])
def test_no_finger_comes_down_where_nobody_saw(azimuth: float) -> None:
    """A handle may be hidden behind what is round: the hand closes across the view."""
    towards = np.array([np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth))])
    handle = block(*(-0.045 * towards), (0.026, 0.012, 0.03), yaw=np.radians(azimuth))
    view = look(both(can(0, 0, 0.033, 0.06), handle), azimuth_deg=azimuth, elevation_deg=35, noise=1)
    assert np.mean(handle(view.world(view.segment().cloud_m)) < 0.002) < 0.01  # it is hidden
    grasp = best(view)
    closing = (view.T_world_camera @ pose_matrix(grasp.pose))[:2, 1]
    assert abs(closing @ towards) < 0.6
    for withdrawn in (0.0, 0.03, 0.06):
        assert clearance(view, grasp, FRANKA, withdrawn) > 0


def test_fingers_keep_off_neighbours() -> None:
    """Opened as wide as is free, a finger would brush what the camera saw only one side of."""
    walls = [block(0, y, (0.08, 0.03, 0.05)) for y in (-0.066, 0.066)]
    view = look(block(0, 0, (0.12, 0.04, 0.05)), *walls, azimuth_deg=5, elevation_deg=60, noise=1)
    assert distances(view, best(view))[:3].min() > 0.005


@pytest.mark.parametrize(("count", "fitting"), [(1, 1), (2, 0)])
def test_two_points_of_a_neighbour_are_in_the_way_one_may_be_noise(count: int, fitting: int) -> None:
    """Of the thin wall of a bin, seen from above, two or three points lie where a finger comes down."""
    view = look(block(0, 0, (0.05, 0.07, 0.05)), elevation_deg=60, noise=1)
    shape = complete_shape(view.segment(), view.up).dense
    grasp = best(view)
    hand = invert(shape.T_camera_support) @ pose_matrix(grasp.pose)
    beside = grasp.width / 2 + FRANKA.finger_thickness / 2
    wall = np.array([[0.0, side * beside, -0.004 - 0.012 * k] for k in range(count) for side in (-1, 1)])
    scene = transform_points(hand, wall[:count])
    contact = hand[:3, 3] - 0.01 * hand[:3, 2]
    one = Candidates(
        hand[None, :3, :3], contact[None], np.array([grasp.width / 2]), np.array([0.01]), np.ones(1)
    )
    assert len(check(replace(shape, scene=scene), one, FRANKA)[0]) == fitting


def test_the_palm_keeps_off_tall_neighbours() -> None:
    """A low thing beside a tall one is held with the hand leaning away from it."""
    view = look(
        roll(0, 0, 0.02, 0.16),
        block(0, 0.075, (0.3, 0.02, 0.085)),
        azimuth_deg=250,
        elevation_deg=50,
        noise=1,
        distance=0.55,
    )
    grasp = best(view)
    for withdrawn in (0.0, 0.03, 0.06, 0.10):
        assert clearance(view, grasp, FRANKA, withdrawn) > 0
    assert closes_on(view, grasp)[1] > np.cos(np.radians(28))


def test_what_a_guard_objects_to_comes_last() -> None:
    """Far from the point a hand is not sent: one that is nearer wins, though it holds less well."""
    view = look(block(0, 0, (0.4, 0.04, 0.05)), elevation_deg=70, noise=0.5, size=(640, 480), distance=0.7)
    shape = complete_shape(view.segment(), view.up).dense
    T_support_world = invert(view.T_world_camera @ shape.T_camera_support)
    places = transform_points(T_support_world, np.array([[-0.15, 0, 0.05], [-0.07, 0, 0.04], [0, 0, 0.04]]))
    y = T_support_world[:3, 1]
    z = [np.array([0, 0, -1.0]), np.array([0, 0, -1.0])]
    z[0] = np.cos(np.radians(30)) * z[0] + np.sin(np.radians(30)) * np.cross(y, z[0])
    rotation = np.array([np.stack([np.cross(y, approach), y, approach], axis=1) for approach in z])
    hands = Candidates(rotation, places[1:], np.full(2, 0.02), np.full(2, 0.01), np.ones(2))
    fits, _ = check(shape, hands, FRANKA)
    near, far = score(shape, fits, places[0], FRANKA)
    assert near > far


@pytest.mark.parametrize("size", [(0.072, 0.165, 0.0075), (0.065, 0.14, 0.011)])
@pytest.mark.parametrize("yaw", [0.1, 0.9])
def test_flat_things_are_held_by_their_sides(size: tuple[float, float, float], yaw: float) -> None:
    """The fingertips reach them, and not the table."""
    view = look(block(0, 0, size, yaw), noise=1, distance=0.6, elevation_deg=60)
    grasp = best(view)
    assert closes_on(view, grasp)[0] == pytest.approx(size[0], abs=0.004)
    below, table = distances(view, grasp)
    assert 0.001 < table < size[2] - 0.002
    assert below > 0


def test_flat_things_have_sides() -> None:
    """Lower than the points of the coarse cloud are apart, they would have none there, and no grasp."""
    view = look(block(0, 0, (0.072, 0.165, 0.0075)), noise=1, distance=0.6, elevation_deg=60)
    shape = complete_shape(view.segment(), view.up).coarse
    T = view.T_world_camera @ shape.T_camera_support
    points, n = transform_points(T, shape.points), shape.normals @ T[:3, :3].T
    for side in (-1, 1):
        on_side = (side * n[:, 0] > 0.7) & (side * points[:, 0] > 0.03)
        assert np.count_nonzero(on_side) > 1.8 * 0.165 / shape.spacing  # two rows


def test_the_palm_does_not_press_on_tall_things() -> None:
    view = look(can(0, 0, 0.03, 0.19), noise=1, distance=0.6)
    grasp = best(view)
    assert distances(view, grasp).min() > 0
    tips = view.world(grasp.pose.position)
    assert tips[2] > 0.05  # not about its foot, either


@pytest.mark.parametrize(("beside", "above", "holds"), [(0, 0, True), (0, 8, True), (20, 0, False)])
def test_a_ball_is_not_held_beside_its_middle(beside: float, above: float, holds: bool) -> None:
    """The pads close on it on both sides, and then push it out; in mm from the middle to the fingertips."""
    view = look(sphere(0, 0, 0.037), elevation_deg=65, noise=0.5, size=(640, 480))
    shape = complete_shape(view.segment(), view.up).dense
    middle = transform_points(invert(view.T_world_camera @ shape.T_camera_support), np.array([0, 0, 0.037]))
    across = np.array([-shape.eye[1], shape.eye[0], 0.0]) / np.hypot(*shape.eye[:2])
    R = np.stack([np.cross(across, [0, 0, -1.0]), across, [0, 0, -1.0]], axis=1)
    contact = middle + beside / 1000 * R[:, 0] - (above + 8) / 1000 * R[:, 2]
    hand = Candidates(R[None], contact[None], np.full(1, 0.034), np.full(1, 0.008), np.ones(1))
    assert bool(len(check(shape, hand, FRANKA)[0])) is holds


def walled_cup(gap: float, height: float) -> View:
    """A cup that can be held by its rim alone, with walls around it."""
    off = 0.045 + gap + 0.01
    sides = [block(s * off, 0, (0.02, 2 * off, height)) for s in (-1, 1)]
    sides += [block(0, s * off, (2 * off, 0.02, height)) for s in (-1, 1)]
    return look(cup(0, 0, 0.045, 0.06), both(*sides), elevation_deg=80, noise=0.5, distance=0.6)


def heights(view: View) -> Array:
    """Return the height (H,W) m of what each pixel shows."""
    v, u = np.indices(view.ids.shape)
    K, z = view.frame.K, view.frame.depth
    points = np.stack([(u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z, z], axis=-1)
    return np.asarray(view.world(points)[..., 2])


def refusal(view: View) -> str:
    """Plan for the first solid alone, whatever it was taken for; return the code of the refusal."""
    high = int(np.nanargmax(np.where(view.mask(), heights(view), np.nan)))
    point = ImagePoint(high % view.ids.shape[1], high // view.ids.shape[1], "it")
    lifted = lift_point(view.frame, point)
    segment = segment_object(view.frame, point, lifted, view.up)
    near = np.concatenate([segment.cloud_m, segment.scene_m])
    own = np.abs(view.solids[0](view.world(near))) < np.abs(view.solids[1](view.world(near)))
    segment = replace(
        segment,
        cloud_m=near[own],
        colors=np.zeros((int(own.sum()), 3), np.uint8),
        scene_m=near[~own],
        mask=view.mask(),
    )
    with pytest.raises(GraspError) as caught:
        plan_grasps(segment, lifted, FRANKA, view.up)
    return caught.value.code


def test_a_thing_too_wide_for_the_hand_is_not_told_to_be_walled_in() -> None:
    view = look(block(0, 0, (0.11, 0.12, 0.10)), block(0.2, 0, (0.03, 0.03, 0.03)), noise=1, distance=0.6)
    assert refusal(view) == "TOO_WIDE"


def test_a_thing_walled_in_is_not_told_to_be_too_wide() -> None:
    """The cup is wider than the hand opens, but it could be held by its rim if nothing stood around it."""
    assert refusal(walled_cup(gap=0.004, height=0.14)) == "COLLISION"


def test_a_closed_can_is_as_wide_as_its_lid() -> None:
    """Only its front is seen between the pads; the lid above them tells how far the fingers close."""
    view = look(can(0, 0, 0.033, 0.1), elevation_deg=55, noise=0.5, size=(640, 480))
    shape = complete_shape(view.segment(), view.up, mirror=False).dense
    assert hand_on(shape, view, [0, 0, 0.07]).width == pytest.approx(0.066, abs=0.005)


def test_a_wall_is_as_thin_as_it_is() -> None:
    """What is open between the fingers is seen to be empty, though the far wall is between them, too."""
    view = look(cup(0, 0, 0.045, 0.08), elevation_deg=65, noise=0.5, size=(640, 480))
    shape = complete_shape(view.segment(), view.up).dense
    towards = view.T_world_camera[:2, 3] / np.linalg.norm(view.T_world_camera[:2, 3])
    assert hand_on(shape, view, [*(-0.043 * towards), 0.07]).width < 0.015


def hand_on(shape: Shape, view: View, place: list[float]) -> Fits:
    """Check a hand that comes straight down at a place in the world and closes along the view."""
    middle = transform_points(invert(view.T_world_camera @ shape.T_camera_support), np.asarray(place))
    along = np.array([*shape.eye[:2], 0.0]) / np.hypot(*shape.eye[:2])
    R = np.stack([np.cross(along, [0, 0, -1.0]), along, [0, 0, -1.0]], axis=1)
    hand = Candidates(R[None], middle[None], np.zeros(1), np.full(1, 0.009), np.ones(1))
    fits = check(shape, hand, FRANKA)[0]
    assert len(fits) == 1
    return fits


def test_the_told_opening_is_never_inside_the_thing() -> None:
    """A wide head above the pads, on a narrow neck between them: the fingers pass it on their way in."""
    head = can(0, 0, 0.030, 0.03)
    mushroom = both(can(0, 0, 0.008, 0.07), lambda p: head(p - np.array([0, 0, 0.055])))
    view = look(mushroom, elevation_deg=35, noise=0.5, size=(640, 480))
    shape = complete_shape(view.segment(), view.up).dense
    fits = hand_on(shape, view, [0, 0, 0.045])
    wall = replace(shape, scene=np.concatenate([shape.scene, shape.points[:400] * [1.02, 1.02, 1.0]]))
    assert known_opening(wall, fits, 0, FRANKA) > 0.060


def test_a_lone_thing_is_not_told_to_clear_its_surroundings() -> None:
    """Too low for a hand that must keep off the table: no neighbour is to blame."""
    view = look(cup(0, 0, 0.045, 0.09), elevation_deg=60, noise=1)
    long_palm = replace(FRANKA, finger_length=0.012, pad_length=0.011, max_opening=0.02)
    segment = view.segment()
    low = replace(segment, cloud_m=segment.cloud_m[view.world(segment.cloud_m)[:, 2] < 0.026])
    with pytest.raises(GraspError) as caught:
        plan_grasps(low, view.lifted(), replace(long_palm, palm=(0.3, 0.3, 0.06)), view.up)
    assert "clear its surroundings" not in str(caught.value)
    assert "look from another side" in str(caught.value) or caught.value.code == "TOO_WIDE"
