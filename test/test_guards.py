"""What must not be sent to a robot is refused: each guard with what it stops and what it lets pass."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from solids import View, block, can, cup, look, smeared, sphere

from molmo_ros.datatypes import CameraPoint, Grasp, ImagePoint, Pose, TargetStatus
from molmo_ros.errors import GraspError, SegmentError
from molmo_ros.grasp import between, beyond, guards, unseen
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.places import pixels_of, places_of
from molmo_ros.perception.guards import check_segment, cut_by_region, loaded, masks_disagree
from molmo_ros.perception.roughness import check_roughness
from molmo_ros.perception.segment import segment_object
from molmo_ros.target import find_target
from molmo_ros.transforms import make_transform, pose_from_matrix, transform_points

FRANKA = Gripper.load("franka_hand")
DOWN = np.diag([1.0, -1.0, -1.0])


@pytest.fixture(scope="module")
def can_view() -> View:
    return look(can(0, 0, 0.03, 0.1), elevation_deg=50, size=(640, 480), distance=0.7)


def straight_down(view: View, tips: list[float], opening: float = 0.08, width: float = 0.06) -> Grasp:
    """A grasp from above with the tips at a place in the world."""
    T = np.linalg.inv(view.T_world_camera) @ make_transform(DOWN, np.array(tips))
    pose = pose_from_matrix(T)
    pre = Pose(pose.position - 0.1 * T[:3, 2], pose.orientation)
    return Grasp(pose, pre, width=width, quality=0.9, opening=opening)


def test_a_good_grasp_passes(can_view: View) -> None:
    target = find_target(can_view.frame, can_view.middle(), FRANKA, can_view.up)
    assert target.status is TargetStatus.OK, target.status_text
    guards.check_grasp(
        can_view.frame, can_view.segment(), can_view.lifted(), straight_down(can_view, [0, 0, 0.07]), FRANKA
    )


def test_a_mask_cut_by_the_region_is_told_and_one_cut_by_the_image_is_not() -> None:
    mask = np.zeros((120, 160), dtype=np.bool_)
    mask[40:80, 60:101] = True
    assert "goes on beyond" in str(cut_by_region(mask, (20, 100, 20, 100)))
    assert cut_by_region(mask, (20, 100, 20, 110)) is None
    mask[40:80, 60:160] = True
    assert cut_by_region(mask, (20, 100, 20, 158)) is None
    assert cut_by_region(mask, None) is None


def test_a_mask_over_several_layers_is_told(can_view: View) -> None:
    segment = can_view.segment()
    check_segment(segment)
    with pytest.raises(SegmentError, match="Only 31% of the depth") as caught:
        check_segment(replace(segment, kept=0.31))
    assert caught.value.code == "AMBIGUOUS"


def test_a_mask_of_mostly_table_is_uncertain(can_view: View) -> None:
    """The segmenter took the table along: what stands there is less than half of it."""
    wide = np.zeros(can_view.ids.shape, dtype=np.bool_)
    v, u = np.nonzero(can_view.mask())
    wide[v.min() - 40 : v.max() + 40, u.min() - 60 : u.max() + 60] = True
    target = find_target(
        can_view.frame, can_view.middle(), FRANKA, can_view.up, segmenter=lambda frame, point: wide
    )
    assert target.status is TargetStatus.AMBIGUOUS
    assert target.grasp is None


def test_what_carries_another_thing_is_not_lifted() -> None:
    """A cup on a tin is a load; what lies in a bowl is not, and what stands behind the tin is none."""
    tin, mug = can(0, 0, 0.08, 0.05), can(0.01, 0, 0.03, 0.12)
    view = look(tin, mug, elevation_deg=45, size=(640, 480), distance=0.7)
    carrier = segment_object(view.frame, view.middle(1), view.lifted(1), view.up, view.mask(1))
    assert "stands on it" in str(loaded(carrier, view.up))
    target = find_target(
        view.frame, view.middle(1), FRANKA, view.up, segmenter=lambda frame, point: view.mask(1)
    )
    assert target.status is TargetStatus.AMBIGUOUS and "take that off first" in target.status_text
    full = look(cup(0, 0, 0.08, 0.06), can(0, 0, 0.03, 0.09), elevation_deg=60, size=(640, 480), distance=0.6)
    bowl = segment_object(full.frame, full.middle(1), full.lifted(1), full.up, full.mask(1))
    assert loaded(bowl, full.up) is None
    behind = look(tin, can(0.13, 0.05, 0.03, 0.16), elevation_deg=35, size=(640, 480), distance=0.7)
    alone = segment_object(behind.frame, behind.middle(1), behind.lifted(1), behind.up, behind.mask(1))
    assert loaded(alone, behind.up) is None
    lamp = transform_points(
        np.linalg.inv(behind.T_world_camera),
        np.random.default_rng(0).uniform([-0.03, -0.03, 0.25], [0.03, 0.03, 0.35], (400, 3)),
    )
    assert loaded(replace(alone, scene_m=lamp), behind.up) is None


def test_two_masks_agree_if_they_are_of_one_thing() -> None:
    a = np.zeros((50, 50), dtype=np.bool_)
    most, part = a.copy(), a.copy()
    a[10:30, 10:30] = most[10:30, 12:33] = part[10:15, 10:15] = True
    assert masks_disagree(a, most) is None
    assert "6% in common" in str(masks_disagree(a, part))
    assert masks_disagree(a, np.zeros_like(a)) is not None


def test_far_from_the_point(can_view: View) -> None:
    """To the side by a thing's size at most; along the ray deeper: vessels are pointed at on the floor."""
    grasp, segment = straight_down(can_view, [0, 0, 0.07]), can_view.segment()
    contact = guards.contact_of(grasp, FRANKA)
    ray = contact / np.linalg.norm(contact)
    aside = np.cross(ray, [0.0, 1.0, 0.0])

    def objection(*off: float) -> str | None:
        place = contact + off[0] * ray + off[1] * aside
        return guards.far_from_point(CameraPoint(place, np.eye(3) * 1e-6), segment, grasp, FRANKA)

    assert objection(0.0, 0.09) is None
    assert objection(0.17, 0.03) is None
    assert "to the side" in str(objection(0.0, 0.11))
    assert "mm from the point" in str(objection(0.22, 0.0))


def test_a_long_thing_is_held_near_the_point() -> None:
    """With what is held out by an arm, the arm: one mask for both, and the point on the far end of it."""
    plank = look(block(0, 0, (0.05, 0.3, 0.04)), elevation_deg=70, size=(640, 480), distance=0.9)
    stick = look(block(0, 0, (0.05, 0.2, 0.04)), elevation_deg=70, size=(640, 480), distance=0.9)
    for view, beside_m, told in ((plank, 0.04, False), (plank, 0.08, True), (stick, 0.08, False)):
        grasp = straight_down(view, [0, beside_m, 0.02], width=0.05)
        point = CameraPoint(view.lifted().position, np.eye(3) * 1e-6)
        objection = guards.far_from_point(point, view.segment(), grasp, FRANKA)
        assert ("mm long" in str(objection)) == told


def test_a_hand_meets_what_was_measured_wherever_it_is() -> None:
    """A wall that no segmentation knows of, in the way of the palm."""
    wall = block(0, 0.09, (0.05, 0.04, 0.16))
    view = look(can(0, 0, 0.03, 0.1), wall, elevation_deg=60, azimuth_deg=190, size=(640, 480), distance=0.7)
    segment = replace(view.segment(), scene_m=np.zeros((0, 3)))
    across, along = straight_down(view, [0, 0, 0.07]), straight_down(view, [0, 0, 0.07])
    turned = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]])
    T = np.linalg.inv(view.T_world_camera) @ make_transform(turned, np.array([0, 0, 0.07]))
    along = replace(along, pose=pose_from_matrix(T))
    assert "the palm would meet" in str(guards.hits_measured(view.frame, segment, across, FRANKA))
    assert guards.hits_measured(view.frame, segment, along, FRANKA) is None


def test_smeared_edges_are_no_obstacle() -> None:
    view = smeared(look(can(0, 0, 0.03, 0.1), elevation_deg=50, size=(640, 480), distance=0.7))
    segment = replace(view.segment(), mask=view.mask())
    assert guards.hits_measured(view.frame, segment, straight_down(view, [0, 0, 0.06]), FRANKA) is None


def test_a_contact_without_depth_is_told(can_view: View) -> None:
    segment, grasp = can_view.segment(), straight_down(can_view, [0, 0, 0.07])
    assert guards.contact_unknown(segment, grasp, FRANKA) is None
    middle = np.linalg.norm(can_view.world(segment.cloud_m)[:, :2], axis=1) < 0.015
    holed = replace(segment, cloud_m=segment.cloud_m[middle])
    assert "points of the object were measured" in str(guards.contact_unknown(holed, grasp, FRANKA))


def test_another_thing_between_the_fingers_is_told() -> None:
    """A cup stands on a tin: fingers around the cup hold the cup, whatever the completed tin looks like."""
    view = look(can(0, 0, 0.09, 0.05), can(0, 0, 0.03, 0.13), elevation_deg=50, size=(640, 480), distance=0.7)
    below, above = (replace(view.segment(), mask=view.mask(thing)) for thing in (1, 2))
    around = straight_down(view, [0, 0, 0.1])
    assert between.another_between(view.frame, above, around, FRANKA) is None
    told = between.another_between(view.frame, below, around, FRANKA)
    assert told is not None and "7.0 cm2 of something else" in told
    beside = straight_down(view, [0.2, 0, 0.03])
    told = between.another_between(view.frame, above, beside, FRANKA)
    assert told is not None and "0.0 cm2 of something else" in told
    with pytest.raises(GraspError) as caught:
        guards.check_grasp(view.frame, below, view.lifted(), around, FRANKA)
    assert caught.value.code == "AMBIGUOUS"


def test_a_pinch_of_a_surface_is_told(can_view: View) -> None:
    """The lid of a can: nothing stands out of it for fingers that are nearly closed to hold."""
    top = straight_down(can_view, [0, 0, 0.097], opening=0.014, width=0.006)
    assert "part of a surface" in str(between.on_surface(can_view.frame, top, FRANKA))
    assert between.on_surface(can_view.frame, straight_down(can_view, [0, 0, 0.07]), FRANKA) is None
    pen = look(block(0, 0, (0.12, 0.008, 0.009)), elevation_deg=60, size=(640, 480), distance=0.5)
    held = straight_down(pen, [0, 0, 0.002], opening=0.03, width=0.008)
    assert between.on_surface(pen.frame, held, FRANKA) is None


def test_a_contact_at_the_border_of_the_image_is_told(can_view: View) -> None:
    assert guards.outside_of_view(can_view.frame, straight_down(can_view, [0, 0, 0.07]), FRANKA) is None
    away = straight_down(can_view, [0.5, 0.4, 0.07])
    assert "border of the 640x480 image" in str(guards.outside_of_view(can_view.frame, away, FRANKA))


def test_a_way_through_what_nobody_saw_is_told(can_view: View) -> None:
    assert unseen.hidden_share(can_view.frame, straight_down(can_view, [0, 0, 0.07]), FRANKA) < 0.5
    crate = block(0, 0, (0.3, 0.3, 0.3))
    view = look(crate, elevation_deg=20, azimuth_deg=180, distance=1.2, size=(640, 480))
    behind = straight_down(view, [0.25, 0, 0.02])
    assert "did not see" in str(unseen.way_unseen(view.frame, behind, FRANKA))


def test_both_fingers_in_a_hole_of_the_depth_are_told(can_view: View) -> None:
    grasp = straight_down(can_view, [0, 0, 0.07])
    assert unseen.fingers_unseen(can_view.frame, grasp, FRANKA) is None
    depth = np.full_like(can_view.frame.depth, np.nan)
    holed = replace(can_view.frame, depth=depth)
    assert "hole" in str(unseen.fingers_unseen(holed, grasp, FRANKA))


def without_depth(view: View, hole: np.ndarray) -> View:
    """The same view without depth in a hole (H,W)."""
    depth = np.where(hole, np.float32(np.nan), view.frame.depth)
    return replace(view, frame=replace(view.frame, depth=depth))


def test_where_depth_ends_a_thing_does_not() -> None:
    """The depth camera sees half of a box, and colour all of it: its edge is not where depth ends."""
    box = look(block(0, 0, (0.05, 0.07, 0.04)), elevation_deg=70, size=(640, 480), distance=0.7)
    segment = replace(box.segment(), mask=box.mask())
    half = without_depth(box, box.world_image()[..., 1] < 0)
    pinched = straight_down(box, [0, 0.0175, 0.015], width=0.035)
    assert "wider than was measured" in str(beyond.edge_unseen(half.frame, segment, pinched, FRANKA))
    assert beyond.edge_unseen(box.frame, segment, pinched, FRANKA) is None
    whole = straight_down(box, [0, 0, 0.015], width=0.07)
    assert beyond.edge_unseen(half.frame, segment, whole, FRANKA) is None


def test_a_hole_in_front_of_a_finger_is_not_beyond_its_edge() -> None:
    """A band of the front without depth hides the finger behind the box: the box does not go on there."""
    box = look(
        block(0, 0, (0.07, 0.05, 0.14)), elevation_deg=35, azimuth_deg=90, size=(640, 480), distance=0.7
    )
    height = box.world_image()[..., 2]
    shiny = without_depth(box, box.mask() & (height > 0.08) & (height < 0.135))
    held = straight_down(box, [0, 0, 0.03], width=0.05)
    behind = places_of(held, (np.zeros(1), np.full(1, 0.035), -np.linspace(0, 0.054, 8)))
    u, v, _ = pixels_of(shiny.frame, behind)
    assert np.isnan(shiny.frame.depth[v, u]).any() and box.mask()[v, u].all()
    segment = replace(box.segment(), mask=box.mask())
    assert beyond.edge_unseen(shiny.frame, segment, held, FRANKA) is None


def test_what_the_image_cuts_is_held_by_a_part_in_view() -> None:
    """A bar that goes on outside of the image: no finger may end there. One that ends in view may be held."""
    view = look(block(0, 0, (0.05, 0.07, 0.04)), elevation_deg=70, size=(640, 480), distance=0.7)
    segment = replace(view.segment(), mask=view.mask())
    grasp = straight_down(view, [0, 0, 0.015], width=0.07)
    assert beyond.cut_by_image(view.frame, segment, grasp, FRANKA) is None
    columns = np.flatnonzero(view.mask().any(axis=0))
    first = int(columns.mean())
    K = view.frame.K - np.array([[0, 0, first], [0, 0, 0], [0, 0, 0]])
    cut = replace(view.frame, rgb=view.frame.rgb[:, first:], depth=view.frame.depth[:, first:], K=K)
    half = replace(segment, mask=segment.mask[:, first:])
    assert "border cuts the thing" in str(beyond.cut_by_image(cut, half, grasp, FRANKA))
    assert beyond.cut_by_image(cut, replace(half, mask=half.mask & False), grasp, FRANKA) is None


def test_the_front_of_a_box_is_no_wall() -> None:
    """A camera as high as the top sees one face only: how thick it is nobody knows."""
    box = block(0, 0, (0.16, 0.06, 0.2))
    pinched = [0.0, 0.027, 0.188]
    front = look(box, elevation_deg=3, azimuth_deg=90, size=(640, 480), distance=0.7)
    segment, grasp = front.segment(), straight_down(front, pinched, opening=0.03, width=0.006)
    assert "front of something solid" in str(unseen.thickness_unseen(front.frame, segment, grasp, FRANKA))
    wide = straight_down(front, [0.0, 0.0, 0.18], width=0.06)
    assert unseen.thickness_unseen(front.frame, segment, wide, FRANKA) is None


@pytest.mark.parametrize("elevation_deg", [25, 45, 70])
@pytest.mark.parametrize("side", [1, -1])
def test_the_walls_of_a_vessel_are_known_by_its_inside(elevation_deg: float, side: int) -> None:
    view = look(
        cup(0, 0, 0.04, 0.1), elevation_deg=elevation_deg, azimuth_deg=90, size=(640, 480), distance=0.7
    )
    grasp = straight_down(view, [0, side * 0.038, 0.088], opening=0.03, width=0.004)
    assert unseen.thickness_unseen(view.frame, view.segment(), grasp, FRANKA) is None


def test_a_thing_as_thin_as_a_wall_is_known_if_both_sides_are_seen() -> None:
    pen = look(block(0, 0, (0.12, 0.008, 0.009)), elevation_deg=60, size=(640, 480), distance=0.5)
    held = straight_down(pen, [0, 0, 0.002], opening=0.03, width=0.008)
    assert unseen.thickness_unseen(pen.frame, pen.segment(), held, FRANKA) is None


def test_two_things_joined_by_a_ramp_are_parted() -> None:
    """Depth runs from a ball over 6 px to a box 8 cm behind it: the ball alone is the segment."""
    view = smeared(
        look(
            sphere(-0.06, 0, 0.03),
            block(0.06, 0, (0.05, 0.12, 0.12)),
            elevation_deg=30,
            azimuth_deg=180,
            size=(640, 480),
            distance=0.8,
        )
    )
    mask, truth = view.segment(1).mask, view.mask(1)
    assert np.count_nonzero(mask & view.mask(2)) < 0.1 * np.count_nonzero(view.mask(2))
    assert np.count_nonzero(mask & truth) > 0.75 * np.count_nonzero(mask | truth)


def test_the_status_is_kept_with_what_is_known(can_view: View) -> None:
    point = ImagePoint(5.0, 470.0, "table")
    target = find_target(can_view.frame, point, FRANKA, can_view.up)
    assert target.status is TargetStatus.NO_OBJECT
    assert target.position is not None


def bumpy(view: View, height_m: float, wide_m: float) -> View:
    """The same view, its depth off by bumps of a standard deviation height_m, about wide_m across."""
    noise = np.random.default_rng(1).normal(size=view.frame.depth.shape)
    if wide_m > 0:
        wide_px = wide_m * view.frame.K[0, 0] / float(np.nanmedian(view.frame.depth))
        noise = cv2.GaussianBlur(noise, (0, 0), wide_px / 2.4)
    depth = view.frame.depth + (height_m * noise / noise.std()).astype(np.float32)
    return replace(view, frame=replace(view.frame, depth=depth))


def test_depth_with_bumps_is_refused_before_grasps_are_seen_in_them(can_view: View) -> None:
    rough = bumpy(can_view, 0.005, 0.008)  # as of a camera of a short baseline over bare cloth
    target = find_target(rough.frame, rough.middle(), FRANKA, rough.up)
    assert target.status is TargetStatus.AMBIGUOUS and target.grasp is None
    assert target.position is not None  # it is the grasp that cannot be told
    assert "too rough" in target.status_text and "come closer" in target.status_text
    located = find_target(rough.frame, rough.middle(), FRANKA, rough.up, grasp=False)
    assert located.status is TargetStatus.OK


@pytest.mark.parametrize(("height", "wide"), [(0.001, 0.008), (0.004, 0.0)], ids=["low bumps", "white noise"])
def test_bumps_that_are_low_and_noise_that_averages_out_are_not_too_rough(
    can_view: View, height: float, wide: float
) -> None:
    view = bumpy(can_view, height, wide)
    check_roughness(view.frame, can_view.lifted().position)


def test_many_edges_do_not_make_depth_rough() -> None:
    pegs = [block(0.045 * i, 0.045 * j, (0.02, 0.02, 0.06)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    view = look(*pegs, elevation_deg=60, size=(640, 480), distance=0.6, noise=1)
    check_roughness(view.frame, view.lifted(5).position)
