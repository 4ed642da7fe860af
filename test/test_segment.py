from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from solids import Solid, View, block, can, cup, look, roll, sphere

from molmo_ros.datatypes import Array, ImagePoint, Mask
from molmo_ros.errors import DepthError, SegmentError
from molmo_ros.perception.lift import lift_point
from molmo_ros.perception.segment import segment_object


def iou(a: Mask, b: Mask) -> float:
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))


@pytest.fixture(scope="module")
def pair() -> View:
    """Return two blocks 20 mm apart, and a ball."""
    size = (0.05, 0.08, 0.06)
    return look(block(0, 0, size), block(0.0, 0.1, size), sphere(0.1, 0, 0.03), noise=1)


@pytest.mark.parametrize("which", [1, 2, 3])
def test_one_of_several_is_separated(pair: View, which: int) -> None:
    segment = pair.segment(which)
    assert iou(segment.mask, pair.mask(which)) > 0.88
    assert len(segment.colors) == len(segment.cloud_m)
    assert np.abs(pair.solids[which - 1](pair.world(segment.cloud_m))).mean() < 0.002
    scene = pair.world(segment.scene_m)
    others = [solid(scene) for k, solid in enumerate(pair.solids) if k != which - 1]
    assert np.median(np.abs(np.min(others, axis=0))) < 0.002


def test_the_support_is_the_table(pair: View) -> None:
    plane = pair.segment().plane
    assert plane is not None
    assert plane[:3] @ pair.up > np.cos(np.radians(1))
    corners = pair.segment().cloud_m
    assert corners @ plane[:3] + plane[3] == pytest.approx(pair.world(corners)[:, 2], abs=0.002)


def test_up_need_not_be_known(pair: View) -> None:
    segment = segment_object(pair.frame, pair.middle(), pair.lifted())
    assert iou(segment.mask, pair.mask()) > 0.88


@pytest.mark.parametrize("elevation", [25, 50, 88])
@pytest.mark.parametrize("distance", [0.4, 0.9])
def test_near_and_far_from_low_and_from_above(elevation: float, distance: float) -> None:
    view = look(can(0, 0, 0.033, 0.1), elevation_deg=elevation, distance=distance, noise=1)
    assert iou(view.segment().mask, view.mask()) > 0.85


def test_both_sides_of_a_cup_belong_to_it() -> None:
    view = look(cup(0, 0, 0.04, 0.09), noise=1, size=(640, 480))
    assert iou(view.segment().mask, view.mask()) > 0.9


def with_handle(x: float, y: float, radius: float, height: float) -> Solid:
    """Return a cup with a ring on its side, as thin as handles are."""
    body = cup(x, y, radius, height)
    centre = np.array([x, y - radius - 0.012, height / 2])

    def distance(p: Array) -> Array:
        q = p - centre
        ring = np.hypot(np.hypot(q[..., 1], q[..., 2]) - 0.022, q[..., 0]) - 0.0045
        return np.minimum(body(p), np.maximum(ring, can(x, y, radius, height)(p) * -1))

    return distance


def test_a_handle_belongs_to_its_mug() -> None:
    view = look(with_handle(0, 0, 0.04, 0.09), noise=1, size=(640, 480))
    handle = view.mask() & (view.world_image()[..., 1] < -0.045)
    assert np.count_nonzero(handle) > 500
    mask = view.segment().mask
    assert np.mean(mask[handle]) > 0.85


def test_the_floor_of_a_bowl_is_the_bowl_and_what_lies_in_it_is_not() -> None:
    bowl, ball = cup(0, 0, 0.075, 0.05, wall=0.009), sphere(0, 0, 0.022)
    lying = np.array([0, 0, 0.009])
    inside = look(bowl, lambda p: ball(p - lying), elevation_deg=60, noise=1, size=(640, 480))
    assert iou(inside.segment(2).mask, inside.mask(2)) > 0.8
    empty = look(bowl, elevation_deg=70, noise=1, size=(640, 480))
    floor = empty.mask() & (np.hypot(*np.moveaxis(empty.world_image()[..., :2], -1, 0)) < 0.06)
    v, u = np.argwhere(empty.mask())[0]
    rim = ImagePoint(float(u), float(v) + 4, "bowl")
    segment = segment_object(empty.frame, rim, lift_point(empty.frame, rim), empty.up)
    assert np.mean(segment.mask[floor]) > 0.8


def test_a_thin_floor_is_of_the_bowl_and_the_table_inside_of_a_ring_is_not() -> None:
    """Both are nearly as low as the table: 4.5 mm, and 0."""
    bowl = cup(0, 0, 0.075, 0.05, wall=0.0045)

    def ring(p: Array) -> Array:
        return np.maximum(bowl(p), -can(0, 0, 0.0705, 0.2)(p + np.array([0, 0, 0.05])))

    for shape, shows, share in ((bowl, 1, (0.9, 1.0)), (ring, 0, (0.0, 0.02))):
        view = look(shape, elevation_deg=70, noise=1, size=(640, 480))
        v, u = np.argwhere(view.mask())[0]
        rim = ImagePoint(float(u), float(v) + 4, "bowl")
        mask = segment_object(view.frame, rim, lift_point(view.frame, rim), view.up).mask
        within = np.hypot(*np.moveaxis(view.world_image()[..., :2], -1, 0)) < 0.06
        assert share[0] <= np.mean(mask[within & (view.ids == shows)]) <= share[1]


def test_what_has_no_depth_is_never_filled_with_the_table() -> None:
    """Of a glass that the sensor looks through, only what was measured of it counts."""
    view = look(can(0, 0, 0.035, 0.1), noise=1, size=(640, 480))
    lost = view.mask().copy()
    lost[: int(view.middle().y)] = False
    seen_through = np.where(view.mask(), look(size=(640, 480)).frame.depth, view.frame.depth)
    for depth in (np.where(lost, np.nan, view.frame.depth), np.where(lost, seen_through, view.frame.depth)):
        frame = replace(view.frame, depth=depth.astype(np.float32))
        point = replace(view.middle(), y=view.middle().y - 15)
        segment = segment_object(frame, point, lift_point(frame, point), view.up)
        assert not (segment.mask & lost).any()
        assert np.abs(view.solids[0](view.world(segment.cloud_m))).max() < 0.01
        in_the_hole = replace(point, y=view.middle().y + 25)
        with pytest.raises((DepthError, SegmentError)):
            segment_object(frame, in_the_hole, lift_point(frame, in_the_hole), view.up)


def test_a_point_on_the_edge_tells_of_the_other_thing_and_gets_the_one_it_lies_on() -> None:
    view = look(sphere(-0.06, 0, 0.03), block(0.08, 0, (0.04, 0.2, 0.14)), elevation_deg=30, size=(640, 480))
    v, u = np.nonzero(view.mask(1))
    top = ImagePoint(float(u[np.argmin(v)]), float(v.min() + 1), "ball")
    lifted = lift_point(view.frame, top)
    assert lifted.ambiguity > 0.2
    assert np.sqrt(lifted.covariance[2, 2]) > 0.02
    assert lift_point(view.frame, view.middle(1)).ambiguity < 0.05
    on_ball = abs(view.solids[0](view.world(lifted.position))) < 0.01
    segment = segment_object(view.frame, top, lifted, view.up)
    assert iou(segment.mask, view.mask(1 if on_ball else 2)) > 0.8


def test_a_flat_thing_is_found() -> None:
    view = look(roll(0, 0, 0.006, 0.13, yaw=0.7), noise=0.5)
    assert np.count_nonzero(view.segment().mask & view.mask()) > 0.4 * np.count_nonzero(view.mask())


def test_things_that_touch_part_where_the_colour_changes_in_a_valley() -> None:
    """Two balls of different colours, 1 mm apart: nearer than the points of one thing may be."""
    view = look(sphere(0, 0, 0.03), sphere(0.0, 0.061, 0.03), noise=1, size=(640, 480))
    for which in (1, 2):
        assert iou(view.segment(which).mask, view.mask(which)) > 0.85


def test_a_label_is_part_of_what_it_is_on() -> None:
    view = look(can(0, 0, 0.033, 0.1), noise=1, size=(640, 480))
    rgb = view.frame.rgb.copy()
    v = int(view.middle().y)
    band = view.mask()
    band[: v - 15] = band[v + 15 :] = False
    rgb[band] = (240, 240, 40)
    point = view.middle()
    segment = segment_object(replace(view.frame, rgb=rgb), point, view.lifted(), view.up)
    assert iou(segment.mask, view.mask()) > 0.85


def test_the_bare_table_is_no_object(pair: View) -> None:
    v, u = np.nonzero(pair.mask(0))
    k = int(np.argmin((v - 200) ** 2 + (u - 40) ** 2))
    point = ImagePoint(float(u[k]), float(v[k]), "nothing")
    with pytest.raises(SegmentError, match="what was taken for its support"):
        segment_object(pair.frame, point, lift_point(pair.frame, point), pair.up)


def test_no_table_and_all_in_one_piece_is_refused() -> None:
    view = look(sphere(0, 0, 0.15), with_table=False, distance=0.6)
    with pytest.raises(SegmentError, match="No support plane"):
        view.segment()


def test_a_speck_is_too_small() -> None:
    view = look(sphere(0, 0, 0.03))
    depth = view.frame.depth.copy()
    point = view.middle()
    keep = np.zeros_like(depth, dtype=bool)
    keep[int(point.y) - 2 : int(point.y) + 3, int(point.x) - 2 : int(point.x) + 3] = True
    depth[view.mask() & ~keep] = np.nan
    with pytest.raises(SegmentError, match="are needed"):
        segment_object(replace(view.frame, depth=depth), point, view.lifted(), view.up)


def test_a_given_mask_is_used(pair: View) -> None:
    half = pair.mask()
    half[:, : int(pair.middle().x)] = False
    segment = segment_object(pair.frame, pair.middle(), pair.lifted(), pair.up, mask=half)
    assert iou(segment.mask, half) > 0.8


def test_a_cap_belongs_to_its_bottle() -> None:
    """From above, the cap hides the neck: what is seen of both is centimetres apart."""
    cap = can(0, 0, 0.02, 0.02)
    view = look(can(0, 0, 0.035, 0.08), lambda p: cap(p - np.array([0, 0, 0.11])), elevation_deg=75)
    assert iou(view.segment(1).mask, view.mask(1) | view.mask(2)) > 0.85
    assert iou(view.segment(2).mask, view.mask(2)) > 0.85  # but a thing in a bowl is not the bowl


def test_holes_in_the_depth_do_no_harm(pair: View) -> None:
    depth = pair.frame.depth.copy()
    depth[np.random.default_rng(0).random(depth.shape) < 0.3] = np.nan
    frame = replace(pair.frame, depth=depth)
    segment = segment_object(frame, pair.middle(), lift_point(frame, pair.middle()), pair.up)
    assert iou(segment.mask, pair.mask() & np.isfinite(depth)) > 0.8


@pytest.mark.parametrize(("radius", "height"), [(0.035, 0.09), (0.06, 0.05)])
@pytest.mark.parametrize("elevation", [60, 80])
def test_a_point_on_the_floor_of_a_mug_or_bowl_means_all_of_it(
    radius: float, height: float, elevation: float
) -> None:
    view = look(cup(0, 0, radius, height), elevation_deg=elevation, noise=1, size=(640, 480))
    world = view.world_image()
    floor = view.mask() & (world[..., 2] < 0.006) & (np.hypot(world[..., 0], world[..., 1]) < radius - 0.01)
    v, u = np.nonzero(floor)
    k = len(v) // 2
    point = ImagePoint(float(u[k]), float(v[k]), "mug")
    segment = segment_object(view.frame, point, lift_point(view.frame, point), view.up)
    assert iou(segment.mask, view.mask()) > 0.65  # its steep walls are hardly seen from above
