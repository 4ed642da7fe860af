"""The simulated camera: geometry that can be computed by hand, noise as specified, scenes that are fair."""

from __future__ import annotations

import numpy as np
import pytest

from molmo_ros.sim import KINDS, NoiseModel, SimCamera
from molmo_ros.sim.camera import intrinsics, shows_well
from molmo_ros.sim.noise import noisy_depth
from molmo_ros.sim.objects import COLORS, colors_of, make, palette
from molmo_ros.sim.render import Renderer
from molmo_ros.sim.scene import Light, Scene, SimObject, Table, look_at

EYE = np.array([0.0, -0.4, 0.4])


def _scene(*objects: SimObject) -> Scene:
    grey = np.full(3, 0.4)
    return Scene(
        objects,
        Table("plain", grey, grey, 1.0, 0.0),
        Light(np.array([0.0, 0.0, 1.0]), 1.0, 0.4, np.ones(3)),
        look_at(EYE, np.zeros(3)),
    )


def _thing(kind: str, color: str = "red") -> SimObject:
    return SimObject(kind, color, np.eye(4), make(kind, np.random.default_rng(0)))


def test_depth_is_along_z_and_hits_the_table_where_the_ray_does() -> None:
    K = intrinsics(64, 48)
    render = Renderer(_scene(), threads=1).render(K, 64, 48)
    T = look_at(EYE, np.zeros(3))
    u, v = 40, 30
    ray = np.array([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], 1.0])
    point = T[:3, :3] @ (ray * render.depth[v, u]) + T[:3, 3]
    assert abs(point[2]) < 1e-5  # the table top is z = 0
    assert (render.ids == 0).all()


def test_camera_looks_at_its_target_with_x_right_and_y_down() -> None:
    T = look_at(EYE, np.zeros(3))
    np.testing.assert_allclose(T[:3, 2], -EYE / np.linalg.norm(EYE), atol=1e-12)
    assert T[2, 0] == pytest.approx(0) and T[2, 1] < 0  # x level, y towards the ground
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_of_real_size_and_stands_on_the_table(kind: str) -> None:
    for seed in range(5):
        shape = make(kind, np.random.default_rng(seed))
        size = np.ptp(shape.vertices, axis=0)
        assert shape.vertices[:, 2].min() == pytest.approx(0, abs=3e-3)
        assert 0.03 < size.max() < 0.25 and size.min() > 0.03
        np.testing.assert_allclose(np.linalg.norm(shape.normals, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["can", "ball", "bottle", "box", "banana"])
def test_faces_of_convex_walks_point_outward(kind: str) -> None:
    """Shading normals agree with the side of the surface that is away from the middle, for most faces."""
    shape = make(kind, np.random.default_rng(1))
    centres = shape.vertices[shape.faces].mean(1)
    normals = shape.normals[shape.faces].mean(1)
    outward = ((centres - shape.vertices.mean(0)) * normals).sum(1) > 0
    assert outward.mean() > 0.7


def test_a_thing_looks_like_its_colour() -> None:
    K = intrinsics(96, 72)
    for color, strongest in (("red", 0), ("green", 1), ("blue", 2)):
        render = Renderer(_scene(_thing("bowl", color)), threads=1).render(K, 96, 72)
        seen = render.rgb[render.ids == 1].astype(float).mean(0)
        assert seen.argmax() == strongest, (color, seen)


def test_palettes_exist_for_all_names() -> None:
    for kind in KINDS:
        for color in colors_of(kind):
            assert palette(kind, color).shape == (2, 3)
    assert set(colors_of("banana")) < set(COLORS)


def test_the_same_seed_gives_the_same_scene_and_other_noise() -> None:
    a, b = SimCamera(5, 96, 72, threads=1), SimCamera(5, 96, 72, threads=1)
    first, second = a.frame(), a.frame()
    np.testing.assert_array_equal(first.rgb, b.frame().rgb)
    np.testing.assert_array_equal(a.truth.ids, b.truth.ids)
    assert (first.rgb != second.rgb).any()
    assert [o.name for o in a.truth.objects] == [o.name for o in b.truth.objects]


def test_scenes_are_fair() -> None:
    for seed in range(12):
        truth = SimCamera(seed, 160, 120, threads=1).truth
        assert truth.objects
        assert shows_well(truth.ids, len(truth.objects)).all()


def test_an_object_at_the_border_or_too_small_does_not_show_well() -> None:
    ids = np.zeros((100, 100), np.uint8)
    ids[40:60, 40:60] = 1
    ids[0:20, 0:20] = 2
    ids[80:85, 80:85] = 3
    assert shows_well(ids, 3).tolist() == [True, False, False]


def test_depth_noise_grows_with_the_square_of_the_distance() -> None:
    rng = np.random.default_rng(0)
    model = NoiseModel(holes=0, disparity_step=1e-6, quantum=1e-6)
    fx = 600.0
    sigmas = [np.nanstd(noisy_depth(np.full((80, 80), z, np.float32), fx, model, rng)) for z in (0.5, 1.0)]
    expected = 0.5**2 * model.disparity_sigma / (fx * model.baseline)
    assert sigmas[0] == pytest.approx(expected, rel=0.15)
    assert sigmas[1] / sigmas[0] == pytest.approx(4, rel=0.15)


def test_edges_lose_depth_and_a_near_thing_casts_a_shadow_to_its_left() -> None:
    depth = np.full((40, 120), 1.0, np.float32)
    depth[:, 60:] = 0.5
    model = NoiseModel(holes=0, flying=0, edge_dropout=0, disparity_sigma=0)
    noisy = noisy_depth(depth, 600.0, model, np.random.default_rng(0))
    lost = np.isnan(noisy).all(0).nonzero()[0]
    # disparities 30 and 60 px: the second eye misses the 30 px left of the step
    assert lost.min() >= 30 and lost.max() < 60 and len(lost) == pytest.approx(29, abs=2)


def test_a_perfect_sensor_changes_nothing() -> None:
    depth = np.random.default_rng(0).uniform(0.4, 0.6, (20, 20)).astype(np.float32)
    np.testing.assert_array_equal(
        noisy_depth(depth, 600.0, NoiseModel(scale=0), np.random.default_rng(0)), depth
    )


def test_depth_comes_in_whole_millimetres_mostly_valid() -> None:
    frame = SimCamera(3, 320, 240, threads=1).frame()
    valid = frame.depth[np.isfinite(frame.depth)]
    np.testing.assert_allclose(valid * 1000, np.round(valid * 1000), atol=1e-2)
    assert 0.85 < np.isfinite(frame.depth).mean() < 1
