"""The whole way without ROS, on the built-in model: what it finds, what it refuses, and what stays true."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from molmo_ros import Grounder
from molmo_ros.datatypes import Answer, ImagePoint, RgbdFrame, TargetStatus
from molmo_ros.errors import (
    AnswerError,
    CameraInfoError,
    CancelledError,
    FrameError,
    ParameterError,
    QueryError,
    TransformError,
)
from molmo_ros.sim import SimCamera
from molmo_ros.transforms import make_transform, matrix_from_quaternion, transform_points

SEEDS = range(100, 108)


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder.load()


@pytest.fixture(scope="module")
def found(grounder: Grounder) -> tuple[SimCamera, RgbdFrame, str]:
    """A frame and a query that the model answers with one graspable point on the right thing."""
    for seed in SEEDS:
        camera = SimCamera(seed)
        frame, truth = camera.frame(stamp_ns=5), camera.truth
        names = [o.name for o in truth.objects]
        for i, name in enumerate(names):
            targets = grounder.grasp(frame, f"the {name}").targets
            hit = (
                len(targets) == 1 and truth.ids[round(targets[0].point.y), round(targets[0].point.x)] == i + 1
            )
            if hit and targets[0].status is TargetStatus.OK and names.count(name) == 1:
                return camera, frame, f"the {name}"
    pytest.fail(f"nothing was found and grasped in {len(SEEDS)} scenes")


def test_a_target_is_complete_and_lies_on_the_true_surface(
    grounder: Grounder, found: tuple[SimCamera, RgbdFrame, str]
) -> None:
    camera, frame, query = found
    grounding = grounder.grasp(frame, query)
    target = grounding.targets[0]
    assert (target.frame_id, target.stamp_ns, grounding.query) == (frame.frame_id, 5, query)
    assert target.position is not None and target.grasp is not None and target.box is not None
    u, v = round(target.point.x), round(target.point.y)
    assert target.position[2] == pytest.approx(camera.truth.depth[v, u], abs=0.01)
    assert 0 < target.grasp.width < grounder.gripper.max_opening
    assert 0 < target.grasp.quality <= 1
    approach = matrix_from_quaternion(target.grasp.pose.orientation)[:, 2]
    back = target.grasp.pregrasp.position - target.grasp.pose.position
    np.testing.assert_allclose(back / np.linalg.norm(back), -approach, atol=1e-6)
    assert {"vision", "prefill", "decode", "lift", "segment", "grasp"} <= set(grounding.stages_ms)


def test_a_target_frame_moves_everything_by_the_same_transform(
    grounder: Grounder, found: tuple[SimCamera, RgbdFrame, str]
) -> None:
    camera, frame, query = found
    T = camera.truth.T_world_camera
    here = grounder.grasp(frame, query).targets[0]
    there = grounder.grasp(frame, query, T_target_camera=T, target_frame="map").targets[0]
    assert there.frame_id == "map"
    assert here.position is not None and there.position is not None and there.grasp is not None
    np.testing.assert_allclose(there.position, transform_points(T, here.position), atol=1e-9)
    assert np.trace(there.covariance) == pytest.approx(np.trace(here.covariance))
    assert there.position[2] > 0  # z is up in the map, and things stand on the table
    assert there.grasp.pregrasp.position[2] > there.grasp.pose.position[2] - 0.02


def test_locate_gives_positions_without_grasps(
    grounder: Grounder, found: tuple[SimCamera, RgbdFrame, str]
) -> None:
    _, frame, query = found
    target = grounder.locate(frame, query).targets[0]
    assert target.status is TargetStatus.OK and target.position is not None
    assert target.grasp is None and target.segment is None


def test_a_point_without_depth_is_returned_with_its_reason(
    grounder: Grounder, found: tuple[SimCamera, RgbdFrame, str]
) -> None:
    _, frame, query = found
    blind = replace(frame, depth=np.full_like(frame.depth, np.nan))
    target = grounder.grasp(blind, query).targets[0]
    assert target.status is TargetStatus.NO_DEPTH and "depth" in target.status_text.lower()
    assert target.position is None and target.grasp is None
    far = replace(frame, depth=np.full_like(frame.depth, 50.0))
    assert grounder.grasp(far, query).targets[0].status is TargetStatus.OUT_OF_RANGE


def test_a_flat_thing_is_no_object(grounder: Grounder, found: tuple[SimCamera, RgbdFrame, str]) -> None:
    """Depth of the bare table under the picture of a thing: a photograph of it."""
    camera, frame, query = found
    truth = camera.truth
    T = truth.T_world_camera
    v, u = np.mgrid[: frame.depth.shape[0], : frame.depth.shape[1]]
    rays = np.stack(
        [(u - frame.K[0, 2]) / frame.K[0, 0], (v - frame.K[1, 2]) / frame.K[1, 1], np.ones_like(u)], -1
    )
    table = (-T[2, 3] / (rays @ T[2, :3])).astype(np.float32)
    target = grounder.grasp(replace(frame, depth=table), query).targets[0]
    assert target.status is TargetStatus.NO_OBJECT
    assert target.position is not None and target.grasp is None


def test_what_is_not_there_gives_no_target(grounder: Grounder) -> None:
    right = sum(not grounder.grasp(SimCamera(seed).frame(), "the teapot").targets for seed in SEEDS)
    assert right >= 6


def test_bad_input_is_refused_and_the_next_query_works(
    grounder: Grounder, found: tuple[SimCamera, RgbdFrame, str]
) -> None:
    _, frame, query = found
    with pytest.raises(QueryError):
        grounder.grasp(frame, "  \n ")
    with pytest.raises(QueryError):
        grounder.grasp(frame, "mug " * 300_000)
    with pytest.raises(FrameError):
        grounder.grasp(replace(frame, depth=frame.depth[:100]), query)
    with pytest.raises(CameraInfoError):
        grounder.grasp(replace(frame, K=np.zeros((3, 3))), query)
    with pytest.raises(TransformError):
        grounder.grasp(frame, query, T_target_camera=np.zeros((4, 4)), target_frame="map")
    with pytest.raises(CancelledError):
        grounder.grasp(frame, query, should_stop=lambda: True)
    assert grounder.grasp(frame, query).targets


@pytest.mark.parametrize(
    "text",
    [
        '<points coords="1 1 2000 305">mug</points>',
        '<points coords="mug">mug</points>',
        "There areThere areThere are",
        "There are",
        "There are.",
        "",
        "mug mug mug mug",
    ],
)
def test_only_a_well_formed_denial_is_not_there(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(grounder.model, "point", lambda *_, **__: Answer(text))
    with pytest.raises(AnswerError, match="other words"):
        grounder.point(SimCamera(0).frame().rgb, "the mug")


def test_a_query_given_up_plans_no_more_grasps(
    grounder: Grounder, found: tuple[SimCamera, RgbdFrame, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, frame, query = found
    answer = grounder.point(frame.rgb, query)
    monkeypatch.setattr(grounder.model, "point", lambda *_, **__: answer)
    with pytest.raises(CancelledError, match="planned"):
        grounder.grasp(frame, query, should_stop=lambda: True)


def test_a_query_given_up_while_its_object_is_cut_out_plans_no_grasp(
    grounder: Grounder, found: tuple[SimCamera, RgbdFrame, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planning is the longest stage after the model, so the last look is right before it."""
    camera, frame, query = found
    given_up, planned = [], []

    def cut_out(frame: RgbdFrame, point: ImagePoint) -> np.ndarray:
        given_up.append(True)
        return camera.truth.ids == camera.truth.ids[round(point.y), round(point.x)]

    monkeypatch.setattr(grounder, "segmenter", cut_out)
    monkeypatch.setattr(grounder, "planner", lambda *args, **named: planned.append(args))
    with pytest.raises(CancelledError):
        grounder.grasp(frame, query, should_stop=lambda: bool(given_up))
    assert given_up and not planned


def test_a_frame_is_checked_once_for_all_its_targets(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage could check it again; with many targets that would add up."""
    checked: list[RgbdFrame] = []
    modules = [m for name, m in list(sys.modules.items()) if name.startswith("molmo_ros") and m is not None]
    for module in modules:
        if hasattr(module, "check_frame"):
            monkeypatch.setattr(module, "check_frame", checked.append)
    frame = SimCamera(SEEDS[0]).frame()
    points = ImagePoint(320.0, 240.0, "it"), ImagePoint(200.0, 240.0, "it")
    monkeypatch.setattr(grounder.model, "point", lambda *_, **__: Answer("", points))
    assert len(grounder.grasp(frame, "all things").targets) == 2
    assert len(checked) == 1 and checked[0] is frame


def test_targets_are_limited_and_ordered(grounder: Grounder) -> None:
    for seed in SEEDS:
        frame = SimCamera(seed).frame()
        for query in ("all the balls", "all the mugs", "all the boxes"):
            targets = grounder.grasp(frame, query).targets
            ok = [t.status is TargetStatus.OK for t in targets]
            assert ok == sorted(ok, reverse=True)
            if len(targets) > 1:
                best = grounder.grasp(frame, query, max_targets=1).targets
                assert [t.point.instance for t in best] == [targets[0].point.instance]
                return
    pytest.fail("no scene with two of a kind was found")


def test_a_wrong_gripper_is_named() -> None:
    with pytest.raises(ParameterError, match="franka_hand"):
        Grounder.load(gripper="three_fingers")


def test_up_is_trusted_in_upright_frames_only(
    grounder: Grounder, found: tuple[SimCamera, RgbdFrame, str]
) -> None:
    """In a tool frame z is not up: the target is the same as without a target frame."""
    _, frame, query = found
    R = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    tool = grounder.grasp(
        frame, query, T_target_camera=make_transform(R, np.zeros(3)), target_frame="tool0"
    ).targets[0]
    here = grounder.grasp(frame, query).targets[0]
    assert here.grasp is not None and tool.grasp is not None
    np.testing.assert_allclose(tool.grasp.pose.position, R @ here.grasp.pose.position, atol=1e-9)


def test_a_frame_that_is_named_upright_is_taken_at_its_word(
    grounder: Grounder, found: tuple[SimCamera, RgbdFrame, str]
) -> None:
    """A robot's base has many names; its z tells the table from a wall as that of base_link does."""
    _, frame, query = found
    named = Grounder(grounder.model, grounder.gripper, upright_frames=("panda_link0",))
    level = make_transform(np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.zeros(3))  # z is up the image

    def place(asked: Grounder, T: np.ndarray, target_frame: str) -> np.ndarray | None:
        target = asked.grasp(frame, query, T_target_camera=T, target_frame=target_frame).targets[0]
        return None if target.grasp is None else target.grasp.pose.position

    upright, unknown = place(named, level, "panda_link0"), place(named, level, "base_link")
    usual = place(grounder, level, "base_link")
    assert (upright is None) == (usual is None)
    if upright is not None:
        np.testing.assert_array_equal(upright, usual)
    assert unknown is not None and (upright is None or not np.allclose(upright, unknown))
