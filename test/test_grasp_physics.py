"""Tests of the physics that judges grasps: what must fail fails, what must hold holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import ConvexHull

pytest.importorskip("mujoco", reason="grasps are executed in MuJoCo; pip install mujoco")
pytest.importorskip("open3d", reason="the simulated camera casts rays with open3d")

from molmo_ros.cli import main
from molmo_ros.datatypes import Array, Grasp
from molmo_ros.errors import ParameterError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.score import probability
from molmo_ros.sim import KINDS
from molmo_ros.sim.camera import intrinsics
from molmo_ros.sim.mesh import box, lathe
from molmo_ros.sim.more_objects import MASS_KG, NOVEL, THIN, WIDE, make
from molmo_ros.sim.render import Renderer
from molmo_ros.sim.scene import Scene, TableTop, look_at
from molmo_ros.sim.wild import POOLS
from molmo_ros.tools import measure_plan
from molmo_ros.tools.grasp_physics.case import FAMILIES, Case, look_around
from molmo_ros.tools.grasp_physics.evaluate import Record, Setting, displaced, run_target
from molmo_ros.tools.grasp_physics.families import draw_case
from molmo_ros.tools.grasp_physics.oracle import find_grasp
from molmo_ros.tools.grasp_physics.placing import beside, distance, footprint, nearest_gap, put
from molmo_ros.tools.grasp_physics.plan import on_another_thing
from molmo_ros.tools.grasp_physics.quality import fit_logistic, reliability
from molmo_ros.tools.grasp_physics.report import summary, table
from molmo_ros.tools.grasp_physics.robustness import count, plot, sweep, sweep_table
from molmo_ros.tools.grasp_physics.statistics import mcnemar, wilson
from molmo_ros.tools.grasp_physics.trial import Outcome, try_grasp
from molmo_ros.tools.grasp_physics.view import click, inner_floor, look
from molmo_ros.tools.grasp_physics.wild_cases import NUMBERS
from molmo_ros.tools.grasp_physics.world import settled
from molmo_ros.transforms import make_transform, pose_from_matrix

FRANKA = Gripper.load("franka_hand")
DOWN = np.array([[1.0, 0, 0], [0, -1.0, 0], [0, 0, -1.0]])


def block(*others: tuple[float, float]) -> Scene:
    """A block of 40 mm in the middle of the table, and more of them at (x, y) m."""
    things = [put("box", "red", box((0.04, 0.04, 0.06)), x, y, 0.0) for x, y in ((0.0, 0.0), *others)]
    return look_around(things, 0, (45.0, 50.0), np.random.default_rng(0))


def from_above(x: float = 0.0, y: float = 0.0, z: float = 0.04, opening: float = 0.07) -> Grasp:
    tips = np.array([x, y, z])
    at, back = (pose_from_matrix(make_transform(DOWN, p)) for p in (tips, tips - 0.1 * DOWN[:, 2]))
    return Grasp(at, back, 0.04, 1.0, opening)


def test_a_good_grasp_holds() -> None:
    assert try_grasp(block(), 0, from_above(), FRANKA) == Outcome(True)


@pytest.mark.parametrize(
    ("grasp", "options", "stage"),
    [
        (from_above(x=0.05), {}, "close"),
        (from_above(z=0.09), {}, "close"),
        (from_above(), {"close": False}, "close"),
        (from_above(), {"friction": 0.0}, "lift"),
    ],
    ids=["5 cm beside", "5 cm above", "never closed", "no friction"],
)
def test_a_bad_grasp_fails(grasp: Grasp, options: dict, stage: str) -> None:
    outcome = try_grasp(block(), 0, grasp, FRANKA, **options)
    assert not outcome.held
    assert outcome.stage == stage


def test_friction_decides() -> None:
    """Two pads of 30 N hold m (g + a) <= 2 mu 30 N: 0.25 kg need mu > 0.04 at rest, 0.06 shaken."""
    assert not try_grasp(block(), 0, from_above(), FRANKA, friction=0.03).held
    assert try_grasp(block(), 0, from_above(), FRANKA, friction=0.1).held


def test_a_neighbour_in_the_way_is_told() -> None:
    outcome = try_grasp(block((0.0, 0.055)), 0, from_above(), FRANKA)
    assert outcome.touched == (1,)
    assert outcome.pushed > 0.0
    assert try_grasp(block((0.055, 0.0)), 0, from_above(), FRANKA).touched == ()


def test_a_hand_that_runs_into_things_is_told() -> None:
    assert try_grasp(block(), 0, from_above(y=0.03), FRANKA).on_target
    assert try_grasp(block(), 0, from_above(x=0.15, z=-0.01), FRANKA).on_table


def test_a_displaced_robot() -> None:
    moved = displaced(from_above(), 0.004, seed=1)
    step = moved.pose.position - from_above().pose.position
    assert 0 < np.linalg.norm(step) < 0.02
    assert np.allclose(step, moved.pregrasp.position - from_above().pregrasp.position)


@pytest.mark.parametrize("kind", [*KINDS, *THIN, *NOVEL, *WIDE])
def test_solids_fill_what_is_drawn(kind: str) -> None:
    """The convex pieces have the volume that the surface encloses, up to the chords of thin rings."""
    mesh = make(kind, np.random.default_rng(3))
    pieces = sum(ConvexHull(p).volume for p in mesh.solids)
    enclosed = _enclosed(mesh.vertices, mesh.faces)
    assert MASS_KG[kind] > 0
    assert pieces == pytest.approx(enclosed, rel=0.12)
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    corners = np.concatenate(mesh.solids)
    assert np.allclose([corners.min(axis=0), corners.max(axis=0)], [low, high], atol=0.0015)


def _enclosed(vertices: Array, faces: Array) -> float:
    """Volume by the divergence theorem; the two ends of a face's corners may run either way round."""
    import open3d as o3d

    caster = o3d.t.geometry.RaycastingScene(nthreads=1)
    caster.add_triangles(vertices.astype(np.float32), faces.astype(np.uint32))
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    points = np.random.default_rng(0).uniform(low, high, (20_000, 3)).astype(np.float32)
    inside = caster.compute_occupancy(o3d.core.Tensor.from_numpy(points)).numpy().mean()
    return float(inside * np.prod(high - low))


def test_hollow_things_are_hollow() -> None:
    ring = lathe([(0.03, 0), (0.05, 0), (0.05, 0.02), (0.03, 0.02), (0.03, 0)], [0, 0, 0, 0])
    middle = np.array([0.0, 0.0, 0.01])
    for piece in ring.solids:
        sides = ConvexHull(piece).equations
        assert (sides[:, :3] @ middle + sides[:, 3]).max() > 0.02


def test_a_rounded_corner_is_no_slice_of_a_body() -> None:
    """A floor whose two ends differ by a rounding error: no piece of it is so thin that it has no volume."""
    wall = [(0.0, 0.0), (0.04, 0.0), (0.05, 0.03), (0.046, 0.03), (0.036, 0.004), (0.0, 0.004002)]
    assert all(ConvexHull(piece).volume > 1e-9 for piece in lathe(wall, [0] * 5).solids)


def test_gaps_are_as_wanted() -> None:
    rng = np.random.default_rng(1)
    things = [put("box", "red", box((0.06, 0.05, 0.05)), 0.0, 0.0, 0.3)]
    for _ in range(4):
        thing = beside("mug", "blue", make("mug", rng), things, (0.002, 0.030), rng)
        assert thing is not None
        things.append(thing)
    gaps = [nearest_gap(i, things) for i in range(len(things))]
    assert all(0.0018 < gap < 0.0302 for gap in gaps)
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    assert distance(square, square + np.array([1.5, 0])) == pytest.approx(0.5)
    assert distance(square, square + 2.0) == pytest.approx(np.sqrt(2))
    assert distance(square, square + 0.5) == 0
    assert len(footprint(things[0].mesh)) == 4


@pytest.mark.parametrize("family", ["clutter", "touching", "thin", "infeasible"])
def test_cases_repeat_and_stand_still(family: str) -> None:
    first, again = draw_case(family, 2), draw_case(family, 2)
    assert [o.name for o in first.scene.objects] == [o.name for o in again.scene.objects]
    assert np.array_equal(first.thing.mesh.vertices, again.thing.mesh.vertices)
    if family != "infeasible":
        limits = FAMILIES[family].count
        assert 1 <= len(first.scene.objects) <= limits[1]
    far = replace(from_above(z=0.6), width=0.0)
    assert not try_grasp(first.scene, first.target, far, FRANKA).restless


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ParameterError, match=r"'nope'.*single, .*clutter"):
        draw_case("nope", 0)


def test_planned_and_held_end_to_end() -> None:
    record = run_target("single", 7, Setting(sensor="dropout", controls=True))
    assert record.kind == "can"
    assert record.held
    assert record.iou > 0.9
    assert record.depth_error < 0.005
    assert set(record.controls) == {"pca_top_down", "straight_down"}


def test_brute_force_knows_what_can_be_grasped() -> None:
    assert find_grasp(block(), 0, FRANKA) is not None
    walls = ((0.0, 0.042), (0.0, -0.042), (0.042, 0.0), (-0.042, 0.0))
    assert find_grasp(block(*walls), 0, FRANKA) is None


def test_refusals_of_infeasible_targets_are_judged() -> None:
    records = [run_target("infeasible", seed, Setting()) for seed in (0, 4, 6)]
    assert [r.feasible for r in records] == [False] * 3
    assert [r.variant for r in records] == ["too_wide", "no_depth", "nothing"]
    right = replace(records[0], outcome=None, seed=1, feasible=True)
    wrong = replace(records[0], outcome=Outcome(False, stage="lift"), seed=8)
    told = summary([replace(r, outcome=None) for r in records] + [right, wrong])["refusals"]
    assert told["precision"] == pytest.approx(3 / 4)
    assert told["recall"] == pytest.approx(3 / 4)


def test_the_report_counts_right() -> None:
    base = run_target("single", 7, Setting())
    lost = replace(base, seed=8, outcome=Outcome(False, touched=(1,), stage="lift"))
    refused = replace(base, seed=9, outcome=None, status="COLLISION", quality=float("nan"))
    moved = replace(base, seed=10, outcome=Outcome(False, restless=True))
    result = summary([base, lost, refused, moved])
    row = result["families"]["single"]
    assert (row["targets"], row["held"], row["attempts"], row["restless"]) == (3, 1, 2, 1)
    assert row["success"] == pytest.approx(1 / 3)
    assert row["success_per_attempt"] == pytest.approx(1 / 2)
    assert row["touched_before_closing"] == pytest.approx(1 / 2)
    assert row["statuses"] == {"OK": 2, "COLLISION": 1}
    assert row["lost_in"] == {"lift": 1}
    assert "1/3" in table(result)
    assert "COLLISION 1" in table(result)
    assert "another thing than the one pointed at: 0 of 2" in table(result)
    assert summary([base, replace(lost, on_another=True)])["families"]["single"]["on_another_thing"] == 1


def test_a_grasp_on_another_thing_is_known_by_what_is_seen_there() -> None:
    case = Case("single", 0, block((0.1, 0.0)), 0, gap=0.06)
    view = look(case, sensor="perfect")
    assert not on_another_thing(view, from_above(), FRANKA)
    assert on_another_thing(view, from_above(x=0.1), FRANKA)
    assert not on_another_thing(view, from_above(x=-0.1), FRANKA)  # the table is no thing


def test_wilson_as_published() -> None:
    """Newcombe 1998, table I: 81 of 263 and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert np.isnan(wilson(0, 0)).all()


def test_mcnemar_by_hand() -> None:
    ours = np.array([True] * 5 + [False, True])
    theirs = np.array([False] * 5 + [False, True])
    assert mcnemar(ours, theirs) == pytest.approx(2 / 2**5)
    assert mcnemar(ours, ours) == 1.0


def test_quality_is_fitted_and_judged() -> None:
    rng = np.random.default_rng(0)
    score = rng.uniform(0, 1, 4000)
    truth = 1 / (1 + np.exp(-(-1.0 + 4.0 * score)))
    held = rng.random(4000) < truth
    a, b = fit_logistic(score, held)
    assert (a, b) == (pytest.approx(-1.0, abs=0.25), pytest.approx(4.0, abs=0.4))
    good, poor = reliability(truth, held), reliability(np.full(4000, 0.5), held)
    assert good["ece"] < 0.03 < 0.15 < poor["ece"]
    assert good["auc"] > 0.7
    assert poor["auc"] == pytest.approx(0.5)
    floors = {f["quality"]: f for f in good["floors"]}
    assert floors[0.8]["sent"] == np.count_nonzero(truth >= 0.8)
    assert 0.8 < floors[0.8]["held"] < floors[0.9]["held"]
    assert [f["quality"] for f in poor["floors"]] == [0.5]
    assert np.isfinite(fit_logistic(score, np.ones(4000, dtype=bool))).all()


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sheet, shots = tmp_path / "sheet.png", tmp_path / "film.png"
    options = ["--family", "single", "--family", "spread", "--targets", "1", "--seed", "7", "--jobs", "1"]
    assert main(["eval", "grasp", *options, "--sheet", str(sheet), "--film", str(shots), "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["families"]["single"]["held"] == 1
    assert result["records"][0]["outcome"]["held"] is True
    assert len(result["gaps"]) == 1
    assert Image.open(sheet).width > 1000
    assert Image.open(shots).width == 5 * 240


def test_a_sweep_runs_each_setting_once(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the sweep is drawn with matplotlib")
    done: list[Record] = []
    result = sweep(["single"], [7], Setting(), 1, done.append)
    assert len(done) == count(Setting()) == 13
    assert result["friction"]["single"]["0.5"]["held"] == 1
    assert "friction of the pads" in sweep_table(result)
    plot(result, tmp_path / "sweep.png")
    assert Image.open(tmp_path / "sweep.png").width > 800


def test_what_is_too_wide_depends_on_the_hand() -> None:
    assert run_target("infeasible", 0, Setting(gripper="robotiq_2f_140")).feasible is None


def test_a_score_becomes_a_chance() -> None:
    """By hand: log-odds -1.18 + 8.04 * 0.5 = 2.84, and 1 / (1 + exp(-2.84)) = 0.9448."""
    assert probability(0.5) == pytest.approx(0.9448, abs=1e-4)
    assert 0 < probability(0.0) < probability(1.0) < 1


def test_time_of_planning_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    measure_plan.main(["--family", "single", "--scenes", "2", "--repeat", "1"])
    told = re.fullmatch(r"single: CPU p50 ([\d.]+), p95 ([\d.]+) ms, 2 scenes\n", capsys.readouterr().out)
    assert told is not None
    assert 1 < float(told[1]) <= float(told[2])


@pytest.mark.parametrize("family", ["heap", "bin", "mug_floor", "wild"])
def test_wild_targets_repeat_rest_and_can_be_pointed_at(family: str) -> None:
    case, again = draw_case(family, 1), draw_case(family, 1)
    assert np.array_equal(case.thing.mesh.vertices, again.thing.mesh.vertices)
    assert case.scene.room is not None
    view = look(case)
    assert view.mask.sum() >= 250
    point = click(view)
    assert view.mask[round(point.y), round(point.x)]
    assert not case.thing.fixed
    assert sum(o.fixed for o in case.scene.objects) == (family == "bin")
    far = replace(from_above(z=0.9), width=0.0)
    assert not try_grasp(case.scene, case.target, far, FRANKA).restless
    if family == "mug_floor":
        T = case.scene.T_world_camera
        ray = np.linalg.inv(view.frame.K) @ [round(point.x), round(point.y), 1.0]
        spot = T[:3, :3] @ (ray * view.depth[round(point.y), round(point.x)]) + T[:3, 3]
        walls = case.thing.mesh.vertices
        assert spot[2] < walls[:, 2].min() + 0.02  # far below the rim
        assert np.linalg.norm(spot[:2] - walls[:, :2].mean(axis=0)) < 0.05


def test_a_bin_out_of_which_all_rolled_is_drawn_anew() -> None:
    """As the first one of this seed is: there would be nothing to settle, and nothing to point at."""
    assert not draw_case("bin", 7013).thing.fixed


def test_the_outside_of_a_vessel_is_not_its_floor() -> None:
    """From the side a vessel shows its wall alone, which begins as low as the floor inside of it."""
    case = draw_case("mug_floor", 1)
    middle = case.thing.mesh.vertices.mean(axis=0)
    K = intrinsics(320, 240)
    for elevation, seen in ((5.0, False), (80.0, True)):
        up = np.radians(elevation)
        eye = middle + 0.5 * np.array([np.cos(up), 0.0, np.sin(up)])
        scene = replace(case.scene, T_world_camera=look_at(eye, middle))
        shown = Renderer(scene, 1).render(K, 320, 240)
        mask = shown.ids == case.target + 1
        assert inner_floor(case.thing, scene.T_world_camera, K, mask, shown.depth).any() == seen


def test_tuning_and_reporting_draw_other_shapes() -> None:
    tuning, reporting = (range(*NUMBERS[name]) for name in ("tuning", "reporting"))
    assert not set(tuning) & set(reporting)
    assert min(tuning) > max(max(pool) for pool in POOLS.values())


def test_the_table_of_a_room_ends_in_physics_too() -> None:
    """A block on the table stays; one beside its edge falls to the floor."""
    case = draw_case("wild", 0)
    top = TableTop(np.zeros(2), np.array([0.6, 0.6]), 0.3, 0.03, -0.5)
    assert case.scene.room is not None
    things = [put("box", "red", box((0.04, 0.04, 0.06)), x, 0.0, 0.0) for x in (0.1, 0.6)]
    scene = replace(case.scene, objects=tuple(things), room=replace(case.scene.room, top=top))
    low = [o.mesh.vertices[:, 2].min() for o in settled(scene).objects]
    assert low == pytest.approx([0.0, -0.5], abs=0.002)


def test_a_bin_does_not_move_when_it_is_hit() -> None:
    thing = replace(put("box", "red", box((0.04, 0.04, 0.06)), 0.0, 0.0, 0.0), fixed=True)
    scene = replace(block(), objects=(thing,))
    outcome = try_grasp(scene, 0, from_above(), FRANKA)
    assert not outcome.held
    assert outcome.stage == "lift"
