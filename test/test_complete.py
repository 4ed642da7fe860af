from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from solids import View, block, can, look, roll, sphere

from molmo_ros.errors import SegmentError
from molmo_ros.perception.complete import Shape, complete_shape


def shape_of(view: View, mirror: bool = True) -> Shape:
    return complete_shape(view.segment(), view.up, mirror).coarse


def errors(view: View, shape: Shape) -> np.ndarray:
    """Return the distance (N,) m of the shape's points to the true surface."""
    points = shape.points @ shape.T_camera_support[:3, :3].T + shape.T_camera_support[:3, 3]
    return np.abs(view.solids[0](view.world(points)))


@pytest.mark.parametrize(
    "solid",
    [sphere(0, 0, 0.035), can(0, 0, 0.033, 0.11), block(0, 0, (0.06, 0.09, 0.07), yaw=0.4)],
    ids=["ball", "can", "box"],
)
def test_the_far_side_is_guessed_where_it_is(solid: object) -> None:
    view = look(solid, noise=1)  # type: ignore[arg-type]
    shape = shape_of(view)
    assert 0.2 < np.mean(~shape.seen) < 0.75
    error = errors(view, shape)
    assert np.median(error[shape.seen]) < 0.001
    assert np.median(error[~shape.seen]) < 0.004
    assert np.quantile(error[~shape.seen], 0.9) < 0.008
    assert np.linalg.norm(shape.normals, axis=1) == pytest.approx(np.ones(len(shape.points)))
    assert len(shape.points) == len(shape.normals) == len(shape.seen)


def test_the_middle_moves_to_the_middle() -> None:
    view = look(sphere(0, 0, 0.035), noise=1)
    offsets = []
    for mirror in (False, True):
        shape = shape_of(view, mirror)
        middle = (shape.points.min(axis=0) + shape.points.max(axis=0)) / 2
        middle = shape.T_camera_support[:3, :3] @ middle + shape.T_camera_support[:3, 3]
        offsets.append(np.linalg.norm(view.world(middle)[:2]))
    assert offsets[1] < 0.006
    assert offsets[1] < 0.7 * offsets[0]


def test_next_to_no_guess_lies_where_the_camera_saw_nothing() -> None:
    view = look(roll(0, 0, 0.02, 0.15, yaw=1.0), noise=1)
    shape = shape_of(view)
    guessed = shape.points[~shape.seen]
    # the foot of what is seen is cut off with the table, and put back without being seen
    guessed = guessed[guessed[:, 2] > 0.014]
    assert np.mean(shape.depth_behind_seen(guessed) > -0.002) > 0.97


def test_a_side_seen_edge_on_gets_a_skirt() -> None:
    """Of a box seen along its sides only front and top are seen; the sides are needed for a grasp."""
    view = look(block(0, 0, (0.09, 0.06, 0.07)), azimuth_deg=180, noise=1)
    shape = shape_of(view)
    across = shape.T_camera_support[:3, :3].T @ view.T_world_camera[:3, :3].T @ [0, 1, 0]
    sideways = np.abs(shape.normals @ across) > 0.8
    assert np.count_nonzero(sideways) > 40
    assert np.median(errors(view, shape)[sideways]) < 0.004


def test_the_sides_of_a_flat_thing_have_several_rows_of_points() -> None:
    """A phone: in the coarse view, whose points lie farther apart than it is high, too."""
    view = look(block(0, 0, (0.07, 0.15, 0.010)), noise=0.5, size=(640, 480))
    views = complete_shape(view.segment(), view.up)
    for shape in (views.coarse, views.dense):
        skirt = shape.points[~shape.seen & (np.abs(shape.normals[:, 2]) < 0.1)]
        assert np.count_nonzero(np.bincount((skirt[:, 2] / 0.0025).astype(int)) > 10) >= 3


def test_next_to_no_points_are_no_shape() -> None:
    view = look(sphere(0, 0, 0.03))
    segment = view.segment()
    with pytest.raises(SegmentError, match="has 3 points"):
        complete_shape(replace(segment, cloud_m=segment.cloud_m[:3], colors=segment.colors[:3]))
