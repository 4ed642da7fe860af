from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from molmo_ros import transforms as tf
from molmo_ros.datatypes import Array, Grasp, Pose
from molmo_ros.errors import TransformError

component = st.floats(-1, 1).filter(lambda x: x == 0 or abs(x) > 1e-6)
quaternions = arrays(np.float64, 4, elements=component).filter(lambda q: np.linalg.norm(q) > 0.1)
positions = arrays(np.float64, 3, elements=st.floats(-5, 5))


def rigid(q: Array, t: Array) -> Array:
    return tf.make_transform(tf.matrix_from_quaternion(q), t)


def test_quarter_turn_about_z_takes_x_to_y() -> None:
    R = tf.matrix_from_quaternion(np.array([0, 0, np.sqrt(0.5), np.sqrt(0.5)]))
    assert R[:, 0] == pytest.approx([0, 1, 0])
    assert tf.quaternion_from_matrix(R) == pytest.approx([0, 0, np.sqrt(0.5), np.sqrt(0.5)])


@given(quaternions)
def test_quaternion_survives_the_matrix(q: Array) -> None:
    R = tf.matrix_from_quaternion(q)
    back = tf.quaternion_from_matrix(R)
    assert back[3] >= 0
    assert np.linalg.norm(back) == pytest.approx(1)
    assert abs(back @ q) == pytest.approx(np.linalg.norm(q), abs=1e-9)
    assert np.linalg.det(R) == pytest.approx(1)


@given(quaternions, positions, positions)
def test_inverse_undoes(q: Array, t: Array, p: Array) -> None:
    T = rigid(q, t)
    assert tf.transform_points(tf.invert(T), tf.transform_points(T, p)) == pytest.approx(p, abs=1e-9)


@given(quaternions, positions, quaternions, positions)
def test_pose_is_moved_as_its_matrix(q: Array, t: Array, q2: Array, t2: Array) -> None:
    T, pose = rigid(q, t), Pose(t2, q2 / np.linalg.norm(q2))
    assert tf.pose_matrix(tf.transform_pose(T, pose)) == pytest.approx(T @ rigid(q2, t2), abs=1e-9)


@given(quaternions, positions)
def test_covariance_keeps_its_axes_lengths(q: Array, t: Array) -> None:
    C = np.diag([4.0, 1.0, 9.0])
    turned = tf.rotate_covariance(rigid(q, t), C)
    assert np.linalg.eigvalsh(turned) == pytest.approx([1, 4, 9])
    assert np.array_equal(turned, turned.T)


def test_covariance_of_pose_turns_both_blocks() -> None:
    T = rigid(np.array([0, 0, np.sqrt(0.5), np.sqrt(0.5)]), np.zeros(3))
    turned = tf.rotate_covariance(T, np.diag([1.0, 2, 3, 4, 5, 6]))
    assert turned == pytest.approx(np.diag([2.0, 1, 3, 5, 4, 6]))


def test_grasp_moves_with_its_pregrasp() -> None:
    up = Pose(np.array([0.0, 0, 1]), np.array([0.0, 0, 0, 1]))
    grasp = Grasp(up, Pose(np.array([0.0, 0, 0.9]), up.orientation), 0.04, 0.5, 0.06)
    T = rigid(np.array([1.0, 0, 0, 0]), np.array([0, 0, 2.0]))  # half a turn about x
    moved = tf.transform_grasp(T, grasp)
    assert moved.pose.position == pytest.approx([0, 0, 1])
    assert moved.pregrasp.position == pytest.approx([0, 0, 1.1])
    assert (moved.width, moved.quality, moved.opening) == (0.04, 0.5, 0.06)


@pytest.mark.parametrize(
    ("T", "word"),
    [
        (np.eye(3), "4x4"),
        (np.full((4, 4), np.nan), "4x4"),
        (np.diag([2.0, 2, 2, 1]), "rigid"),
        (np.diag([1.0, 1, -1, 1]), "rigid"),
        (np.diag([1.0, 1, 1, 2]), "rigid"),
    ],
)
def test_what_is_not_rigid_is_refused(T: Array, word: str) -> None:
    with pytest.raises(TransformError, match=word):
        tf.check_transform(T)
    assert tf.check_transform(np.eye(4)).shape == (4, 4)


@pytest.mark.parametrize("q", [np.zeros(4), np.array([np.nan, 0, 0, 1]), np.zeros(3)])
def test_no_rotation_is_refused(q: Array) -> None:
    with pytest.raises(TransformError, match="quaternion"):
        tf.matrix_from_quaternion(q)


@pytest.mark.parametrize("hint", [[1.0, 0, 0], [0, 0, 1.0]])
def test_frame_with_z_is_a_rotation(hint: list[float]) -> None:
    R = tf.frame_with_z(np.array([0.0, 0, 2.0]), np.array(hint))
    assert R[:, 2] == pytest.approx([0, 0, 1])
    np.testing.assert_allclose(R.T @ R, np.eye(3), atol=1e-12)
    assert np.linalg.det(R) == pytest.approx(1)


def test_zero_vector_has_no_direction() -> None:
    with pytest.raises(TransformError, match="direction"):
        tf.unit(np.zeros(3))
