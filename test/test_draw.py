"""The pictures show what they should, where they should, at every size."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from toy_scene import make_frame, make_grounding, make_target

from molmo_ros.datatypes import (
    Answer,
    Array,
    GraspTarget,
    Grounding,
    Image,
    ImagePoint,
    RgbdFrame,
    TargetStatus,
)
from molmo_ros.draw import annotate, picture, view3d
from molmo_ros.draw.annotate import ellipse_outline
from molmo_ros.draw.labels import Box, place
from molmo_ros.draw.raster import Canvas, Eye
from molmo_ros.draw.solids import box
from molmo_ros.draw.style import ACCENTS, shorten, text_width
from molmo_ros.draw.viewpoint import choose_eye, set_stage
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.transforms import make_transform, rotate_covariance, transform_box, transform_grasp

SIZES = [(160, 120), (640, 480), (1280, 720), (360, 480)]


@pytest.fixture(scope="module")
def scene() -> tuple[RgbdFrame, GraspTarget]:
    frame, ids = make_frame()
    return frame, make_target(frame, ids)


@pytest.fixture(scope="module")
def gripper() -> Gripper:
    return Gripper.load("franka_hand")


def _changed(before: Image, after: Image) -> np.ndarray:
    return np.asarray(np.not_equal(before, after).any(axis=-1))


@pytest.mark.parametrize("size", SIZES)
def test_annotate_keeps_the_size_and_the_input_and_marks_the_point(size: tuple[int, int]) -> None:
    frame, ids = make_frame(*size)
    before = frame.rgb.copy()
    target = make_target(frame, ids)
    drawn = annotate(frame.rgb, [target], "the red can")
    np.testing.assert_array_equal(frame.rgb, before)
    assert drawn.shape == frame.rgb.shape and drawn.dtype == np.uint8
    x, y = round(target.point.x), round(target.point.y)
    assert np.abs(drawn[y, x] - np.array(ACCENTS[0])).max() < 70  # the mark has its colour in its middle


def test_the_mask_is_tinted_and_the_rest_is_not(scene: tuple[RgbdFrame, GraspTarget]) -> None:
    frame, target = scene
    assert target.segment is not None
    changed = _changed(frame.rgb, annotate(frame.rgb, [target]))
    assert changed[target.segment.mask].mean() > 0.95
    far = np.zeros_like(changed)
    far[300:] = True  # below the can, beyond every label
    assert not changed[far].any()


def test_a_target_without_a_mask_is_drawn_as_its_point(scene: tuple[RgbdFrame, GraspTarget]) -> None:
    frame, target = scene
    failed = replace(target, status=TargetStatus.NO_DEPTH, segment=None, position=None, box=None, grasp=None)
    drawn = annotate(frame.rgb, [failed])
    assert _changed(frame.rgb, drawn)[round(target.point.y), round(target.point.x)]


def test_nothing_found_is_said_at_the_top_alone(scene: tuple[RgbdFrame, GraspTarget]) -> None:
    frame, _ = scene
    changed = _changed(frame.rgb, annotate(frame.rgb, [], "the yellow banana"))
    rows = np.flatnonzero(changed.any(axis=1))
    assert rows.size > 15 and rows.max() < 60


@pytest.mark.parametrize(
    "point",
    [
        ImagePoint(-40.0, 900.0, "outside"),
        ImagePoint(5.0, 5.0, "", covariance=np.diag([1e9, 1e9])),
        ImagePoint(300.0, 200.0, "no covariance", covariance=np.full((2, 2), np.nan)),
        ImagePoint(639.0, 479.0, "a very long label that cannot fit into this image at all " * 4),
        ImagePoint(100.0, 100.0, "Unicode: 杯 ü \u202e\n\t{}%s"),
    ],
)
def test_odd_points_do_not_break_the_picture(scene: tuple[RgbdFrame, GraspTarget], point: ImagePoint) -> None:
    drawn = annotate(scene[0].rgb, [point], "q" * 4000)
    assert drawn.shape == scene[0].rgb.shape


def test_the_ellipse_is_two_sigma_along_its_axes() -> None:
    turn = np.deg2rad(30)
    R = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    point = ImagePoint(10.0, 20.0, "", covariance=R @ np.diag([9.0, 1.0]) @ R.T)
    away = (ellipse_outline(point) - [10.0, 20.0]) @ R
    assert np.abs(away[:, 0]).max() == pytest.approx(6.0, rel=0.01)
    assert np.abs(away[:, 1]).max() == pytest.approx(2.0, rel=0.01)


def test_labels_lie_inside_and_over_no_label_or_point() -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        points = [(float(x), float(y)) for x, y in rng.uniform([20, 20], [620, 460], (7, 2))]
        boxes = place(points, [(110.0, 22.0)] * 7, (640, 480), [Box(10, 10, 200, 30)], [], gap=12)
        for i, b in enumerate(boxes):
            assert b.x >= 0 and b.y >= 0 and b.x + b.w <= 640 and b.y + b.h <= 480
            assert b.overlap(Box(10, 10, 200, 30)) == 0
            assert all(b.overlap(other) == 0 for other in boxes[:i])
            assert not any(b.x < x < b.x + b.w and b.y < y < b.y + b.h for x, y in points)


def test_two_labels_of_neighbours_do_not_touch() -> None:
    """Two bowls side by side, with masks that make every free place a worse one but for the other label."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        first = rng.uniform([60, 60], [580, 420])
        second = first + rng.uniform(-60, 60, 2)
        masks = [np.hypot(*(np.indices((480, 640))[::-1] - p[:, None, None])) < 70 for p in (first, second)]
        points = [(float(x), float(y)) for x, y in (first, second)]
        one, other = place(points, [(90.0, 24.0)] * 2, (640, 480), [], masks, 12.0)
        assert one.overlap(other) == 0.0, seed


def test_the_footer_says_that_there_are_more_targets(scene: tuple[RgbdFrame, GraspTarget]) -> None:
    from molmo_ros.draw.picture import _facts

    _, target = scene
    answer = Answer("", (target.point, target.point))
    alone, both = (_facts(Grounding("it", answer, (target,) * count)) for count in (1, 2))
    assert not any("best of" in name for name, _, _ in alone)
    assert any("best of 2" in name for name, _, _ in both)


def test_text_is_cut_to_its_room() -> None:
    assert shorten("mug", 14, 200) == "mug"
    cut = shorten("the red mug that stands on the left of the big blue bowl", 14, 120)
    assert cut.endswith("...") and text_width(cut, 14) <= 120


def _eye(size: tuple[int, int] = (200, 200)) -> Eye:
    up = np.array([0.0, -1.0, 0.0])
    return Eye.look_at(np.zeros(3), np.array([0.0, 0.0, 1.0]), up, np.radians(60), size)


def test_the_nearer_of_two_splats_is_seen_in_either_order() -> None:
    points = np.array([[0, 0, 1.0], [0, 0, 0.5]])
    colors = np.array([[255, 0, 0], [0, 255, 0]], dtype=np.float32)
    for order in ([0, 1], [1, 0]):
        canvas = Canvas(_eye(), np.zeros((200, 200, 3), dtype=np.float32))
        canvas.splat(points[order], colors[order], np.full(2, 5, dtype=np.float32))
        assert canvas.image(1)[100, 100].tolist() == [0, 255, 0]


def test_a_box_hides_what_is_behind_it_and_has_its_true_size() -> None:
    canvas = Canvas(_eye(), np.zeros((200, 200, 3), dtype=np.float32))
    solid = box((-0.1, -0.2, 1.0), (0.1, 0.2, 1.2), (200, 200, 200))
    canvas.triangles(solid.vertices, solid.faces, solid.color)
    canvas.splat(
        np.array([[0, 0, 1.5]]), np.full((1, 3), 9, dtype=np.float32), np.full(1, 3, dtype=np.float32)
    )
    seen = canvas.image(1).max(axis=-1) > 0
    focal = 100 / np.tan(np.radians(30))
    assert seen.any(axis=0).sum() == pytest.approx(0.2 * focal, abs=2)  # the front face, at 1 m
    assert seen.any(axis=1).sum() == pytest.approx(0.4 * focal, abs=2)
    assert canvas.z.reshape(200, 200)[100, 100] == pytest.approx(1.0, abs=1e-5)
    assert canvas.image(1)[100, 100].min() > 50


def test_lines_pass_behind_surfaces_only_faintly() -> None:
    canvas = Canvas(_eye(), np.zeros((200, 200, 3), dtype=np.float32))
    solid = box((-0.1, -0.1, 1.0), (0.1, 0.1, 1.1), (100, 100, 100))
    canvas.triangles(solid.vertices, solid.faces, solid.color)
    plain = canvas.image(1)[100, 100].astype(int)
    ends = np.array([[-0.6, 0, 1.3]]), np.array([[0.6, 0, 1.3]])
    canvas.lines(*ends, (255, 0, 0), 3.0, alpha=1.0, hidden=0.0)
    assert canvas.image(1)[100, 100].tolist() == plain.tolist()
    assert canvas.image(1)[100, 30].tolist() == [255, 0, 0]


def test_the_hand_is_drawn_at_the_grasp(scene: tuple[RgbdFrame, GraspTarget], gripper: Gripper) -> None:
    frame, target = scene
    with_hand, without = view3d(frame, [target], gripper), view3d(frame, [target], None)
    assert with_hand.shape == (480, 640, 3)
    white = (with_hand.min(axis=-1) > 140).sum()
    assert white > 5000 > 5 * (without.min(axis=-1) > 140).sum()  # the shell of the palm


def test_the_target_frame_changes_the_axes_alone(
    scene: tuple[RgbdFrame, GraspTarget], gripper: Gripper
) -> None:
    frame, target = scene
    R = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    T = make_transform(R, np.array([0.3, -0.2, 0.9]))
    moved = _moved(target, T)
    a, b = view3d(frame, [target], gripper), view3d(frame, [moved], gripper, T_target_camera=T)
    different = _changed(a, b)
    different[360:, :260] = False  # where axes and frame name are
    assert different.mean() < 0.002


def _moved(target: GraspTarget, T: Array) -> GraspTarget:
    assert target.box and target.grasp and target.position is not None and target.covariance is not None
    return replace(
        target,
        position=T[:3, :3] @ target.position + T[:3, 3],
        covariance=rotate_covariance(T, target.covariance),
        box=transform_box(T, target.box),
        grasp=transform_grasp(T, target.grasp),
    )


def test_a_frame_without_any_depth_still_gives_a_view(scene: tuple[RgbdFrame, GraspTarget]) -> None:
    frame = replace(scene[0], depth=np.full_like(scene[0].depth, np.nan))
    assert view3d(frame, []).shape == (480, 640, 3)


def test_two_views_of_one_scene_are_equal(scene: tuple[RgbdFrame, GraspTarget], gripper: Gripper) -> None:
    frame, target = scene
    np.testing.assert_array_equal(view3d(frame, [target], gripper), view3d(frame, [target], gripper))


@pytest.mark.parametrize("size", [(160, 120), (640, 480), (1280, 720)])
@pytest.mark.parametrize("found", [True, False])
def test_picture_joins_both_over_a_caption(size: tuple[int, int], found: bool, gripper: Gripper) -> None:
    frame, ids = make_frame(*size)
    targets = [make_target(frame, ids)] if found else []
    image = picture(frame, make_grounding(frame, *targets), gripper)
    height = max(size[1], 480)
    assert image.width > size[0] + 1.3 * height and height < image.height < 1.2 * height
    caption = np.asarray(image)[height:]
    assert (caption.min(axis=-1) > 200).sum() > 100  # there is text


def test_a_long_text_is_cut_at_once() -> None:
    start = time.process_time()
    shorten("q" * 1_000_000, 14, 300)
    assert time.process_time() - start < 0.5


def test_the_picture_is_made_in_a_moment(scene: tuple[RgbdFrame, GraspTarget], gripper: Gripper) -> None:
    frame, target = scene
    grounding = make_grounding(frame, target)
    picture(frame, grounding, gripper)
    start = time.process_time()
    picture(frame, grounding, gripper)
    assert time.process_time() - start < 2.0  # 0.6 s of CPU where this was written


def test_the_eye_avoids_what_hides_the_object(scene: tuple[RgbdFrame, GraspTarget]) -> None:
    frame, target = scene
    stage = set_stage(frame, [target], 0.15)
    free = choose_eye(stage, np.zeros((0, 3)), (640, 480))
    between = 0.35 * free.position + 0.65 * stage.focus
    wall = between + np.random.default_rng(0).uniform(-0.06, 0.06, (4000, 3))
    moved = choose_eye(stage, wall, (640, 480))
    turned = np.degrees(np.arccos(moved.rotation[2] @ free.rotation[2]))
    assert turned > 15
