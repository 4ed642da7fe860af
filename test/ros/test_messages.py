"""Results to messages and back, clouds and markers."""

from __future__ import annotations

import numpy as np
import pytest
from visualization_msgs.msg import Marker

from molmo_ros.camera.conversions import stamp_to_ns
from molmo_ros.datatypes import (
    Answer,
    Grasp,
    GraspTarget,
    Grounding,
    ImagePoint,
    ObjectSegment,
    OrientedBox,
    Pose,
    TargetStatus,
)
from molmo_ros.draw.shapes import SIGMAS
from molmo_ros.msg import GraspTarget as GraspTargetMessage
from molmo_ros.ros.markers import target_markers
from molmo_ros.ros.messages import (
    cloud_message,
    clouds_by_instance,
    make_header,
    target_array,
    target_from_message,
    target_message,
)

STAMP_NS = 12_000_000_345
HALF = np.sqrt(0.5)
SIDEWAYS = np.array([0.0, HALF, 0.0, HALF])  # 90 degrees about y: z points along +x


def target(status: TargetStatus = TargetStatus.OK) -> GraspTarget:
    pose = Pose(np.array([0.1, 0.2, 0.5]), SIDEWAYS)
    pregrasp = Pose(np.array([0.0, 0.2, 0.5]), SIDEWAYS)
    segment = ObjectSegment(
        np.zeros((2, 2), bool),
        np.arange(6.0).reshape(2, 3),
        np.uint8([[255, 0, 1], [2, 3, 4]]),
        np.zeros((0, 3)),
        None,
    )
    return GraspTarget(
        point=ImagePoint(3.5, 4.5, "mug", 2, 0.75, np.diag([4.0, 9.0])),
        status=status,
        status_text="" if status is TargetStatus.OK else "why",
        frame_id="base_link",
        stamp_ns=STAMP_NS,
        position=np.array([0.1, 0.2, 0.5]),
        covariance=np.diag([1e-4, 4e-4, 9e-4]),
        depth_distance=5.5,
        box=OrientedBox(pose, np.array([0.1, 0.2, 0.3])),
        grasp=Grasp(pose, pregrasp, 0.06, 0.8, 0.07),
        segment=segment,
    )


def test_target_round_trip() -> None:
    message = target_message(target(), "eye", 0.25)
    assert message.header.frame_id == "base_link"
    assert message.point.header.frame_id == "eye"
    assert message.age == 0.25
    back, before = target_from_message(message), target()
    assert (back.status, back.frame_id, back.stamp_ns) == (before.status, before.frame_id, STAMP_NS)
    assert (back.point.x, back.point.instance, back.point.label) == (3.5, 2, "mug")
    np.testing.assert_allclose(back.position, before.position)
    np.testing.assert_allclose(back.covariance, before.covariance)
    np.testing.assert_allclose(back.box.size, [0.1, 0.2, 0.3])
    np.testing.assert_allclose(back.grasp.pose.orientation, SIDEWAYS)
    assert (back.grasp.width, back.grasp.opening, back.depth_distance) == (0.06, 0.07, 5.5)


def test_unknown_is_nan_in_the_message_and_none_again() -> None:
    bare = GraspTarget(ImagePoint(1.0, 2.0, "mug"), TargetStatus.NO_DEPTH, "no depth", "eye", STAMP_NS)
    message = target_message(bare, "eye", 0.0)
    numbers = [message.position.x, message.width, message.opening, message.object_size.z]
    numbers.append(message.depth_distance)
    numbers.append(message.pregrasp_pose.orientation.w)
    assert np.isnan(numbers).all()
    assert np.isnan(message.position_covariance).all()
    back = target_from_message(message)
    assert (back.position, back.covariance, back.box, back.grasp) == (None, None, None, None)
    assert back.depth_distance is None


def test_statuses_of_message_and_library_are_the_same() -> None:
    for status in TargetStatus:
        assert getattr(GraspTargetMessage, status.name) == status


def test_array_has_header_even_without_targets() -> None:
    array = target_array(
        Grounding("the mug", Answer("There are none."), ()), "base_link", "eye", STAMP_NS, 0.1
    )
    assert stamp_to_ns(array.header.stamp) == STAMP_NS
    assert (array.header.frame_id, array.query, array.answer, array.targets) == (
        "base_link",
        "the mug",
        "There are none.",
        [],
    )


def test_header_of_stamps_beyond_a_second() -> None:
    header = make_header("eye", STAMP_NS)
    assert (header.stamp.sec, header.stamp.nanosec) == (12, 345)


def test_cloud_round_trip() -> None:
    message = cloud_message([target()], "eye", STAMP_NS)
    assert message.width == 2
    assert message.row_step == len(message.data) == 2 * message.point_step
    clouds = clouds_by_instance(message)
    assert set(clouds) == {2}
    points, colors = clouds[2]
    np.testing.assert_allclose(points, np.arange(6.0).reshape(2, 3))
    assert colors.tolist() == [[255, 0, 1], [2, 3, 4]]


def test_cloud_of_nothing_is_empty() -> None:
    message = cloud_message([], "eye", STAMP_NS)
    assert (message.width, len(message.data)) == (0, 0)
    assert clouds_by_instance(message) == {}


def by_namespace(markers: list[Marker]) -> dict[str, list[Marker]]:
    return {name: [marker for marker in markers if marker.ns == name] for name in {m.ns for m in markers}}


def test_markers_begin_by_deleting_the_old_ones() -> None:
    markers = target_markers([], "base_link", STAMP_NS).markers
    assert [marker.action for marker in markers] == [Marker.DELETEALL]


def test_markers_of_a_target() -> None:
    markers = target_markers([target()], "base_link", STAMP_NS).markers
    assert len({marker.id for marker in markers}) == len(markers)
    assert {marker.header.frame_id for marker in markers} == {"base_link"}
    groups = by_namespace(markers)
    assert groups["label"][0].text == "mug 75%"
    assert len(groups["gripper"]) == 3
    assert (groups["object"][0].scale.x, groups["object"][0].scale.z) == pytest.approx((0.1, 0.3))


def test_ellipsoid_has_the_axes_of_the_covariance() -> None:
    scale = by_namespace(target_markers([target()], "base_link", STAMP_NS).markers)["uncertainty"][0].scale
    assert sorted([scale.x, scale.y, scale.z]) == pytest.approx([2 * SIGMAS * s for s in (0.01, 0.02, 0.03)])


def test_arrow_points_along_the_approach() -> None:
    """z of the grasp is +x of the frame here: the arrow must go that way, at constant y and z."""
    start, end = by_namespace(target_markers([target()], "base_link", STAMP_NS).markers)["approach"][0].points
    assert end.x > start.x
    assert (end.y, end.z) == pytest.approx((start.y, start.z))


def test_fingers_stand_across_the_approach() -> None:
    """y of the grasp is y of the frame: the fingers stand at +-(width + thickness) / 2 of it."""
    fingers = by_namespace(target_markers([target()], "base_link", STAMP_NS).markers)["gripper"][:2]
    assert [finger.pose.position.y for finger in fingers] == pytest.approx([0.2 + 0.034, 0.2 - 0.034])


def test_target_that_cannot_be_grasped_says_so() -> None:
    markers = target_markers([target(TargetStatus.TOO_WIDE)], "base_link", STAMP_NS).markers
    assert "TOO_WIDE" in by_namespace(markers)["label"][0].text
