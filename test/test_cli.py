"""The command: one JSON object on standard output, one line for a mistake, the right exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage
from toy_scene import make_frame, make_target

import molmo_ros
from molmo_ros import io
from molmo_ros.cli import main
from molmo_ros.cli.bench import summary
from molmo_ros.cli.output import stdout_free, to_plain

ROOT = Path(molmo_ros.__file__).parent.parent  # the package that the other tests import
NODE = Path(__file__).parent.parent / "scripts" / "bin" / "molmo_node"
HEAVY = ("numpy", "PIL", "cv2", "torch", "open3d", "onnxruntime", "rclpy", "yaml", "tqdm")


def run(*args: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command, or a piece of Python, in a process of its own, away from the source tree."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "molmo_ros.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, cwd="/")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the sub-command sim wrote."""
    folder = tmp_path_factory.mktemp("frames")
    assert main(["sim", str(folder), "--frames", "2", "--seed", "5"]) == 0
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> tuple[str, str, str]:
    """A good frame on disk: colour, depth, camera_info."""
    frame, _ = make_frame(160, 120)
    paths = tuple(str(tmp_path / name) for name in ("color.png", "depth.png", "info.yaml"))
    io.write_color(paths[0], frame.rgb)
    io.write_depth(paths[1], frame.depth)
    io.write_camera_info(paths[2], frame.K, 160, 120, "optical")
    return paths[0], paths[1], paths[2]


def mistake(capfd: pytest.CaptureFixture[str], *args: str) -> str:
    """Run what must be a user's mistake; return its one line."""
    assert main(args) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("molmo-ros: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.mark.parametrize("args", [["--help"], ["ground", "--help"], ["demo", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys; from molmo_ros.cli import main\n"
        f"try: main({args!r})\n"
        "except SystemExit as e: assert e.code == 0\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = run(code=code)
    assert done.returncode == 0 and done.stderr.strip() == "[]" and "molmo-ros" in done.stdout


@pytest.mark.parametrize("given", ["", "3"])
@pytest.mark.parametrize("start", ["import molmo_ros.cli", f"import runpy; runpy.run_path({str(NODE)!r})"])
def test_idle_threads_of_openblas_do_not_hold_the_cores(
    start: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "runpy" in start:
        pytest.importorskip("molmo_ros.msg", reason="the messages are not built here (colcon build)")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
    done = run(code=f"{start}; import os; print(os.environ['OPENBLAS_NUM_THREADS'])")
    assert done.stdout.split() == [given or "1"], done.stderr


@pytest.mark.parametrize(
    ("args", "mend"),
    [
        ([], "--help"),
        (["fly"], "choose from"),
        (["ground", "image.png"], "QUERY"),
        (["bench", "--repeat", "0"], "1 to 10000"),
        (["bench", "--repeat", "many"], "1 to 10000"),
        (["ground", "none.png", "the mug"], "PNG or JPEG"),
        (["ground", "none.png", " \n\x07 "], "red mug"),
        (["ground", "none.png", "m" * 1_000_000], "shorten"),
        (["ground", "none.png", "the mug", "--out", "/no/such/folder/a.png"], "make it"),
        (["ground", "none.png", "the mug", "--out", "a.exe"], ".png"),
        (["ground", "none.png", "the mug", "--depth", "d.png"], "--camera-info"),
        (["ground", "none.png", "the mug", "--camera-info", "i.yaml"], "--depth"),
        (["ground", "none.png", "the mug", "--runtime", "magic"], "onnx"),
        (["info", "no-such-model"], "tiny"),
        (["eval"], "tiny,precision,grasp"),
        (["engine", "check", "/nope"], "engine list"),
        (["demo", "--query", "", "--out", "a.png"], "red mug"),
        (["demo", "--gripper", "claw", "--out", "a.png"], "franka_hand"),
    ],
)
def test_a_mistake_is_one_line_with_the_mend(
    args: list[str],
    mend: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mend in mistake(capfd, *args)
    assert not any(tmp_path.iterdir())  # nothing is left behind


def test_bad_frames_are_mistakes(toy: tuple[str, str, str], capfd: pytest.CaptureFixture[str]) -> None:
    color, depth, info = toy
    ground = ["ground", color, "the red can", "--depth", depth, "--camera-info", info]
    io.write_camera_info(info, np.diag([0.0, 0.0, 1.0]), 160, 120, "optical")
    assert "calibrate" in mistake(capfd, *ground)
    io.write_camera_info(info, np.array([[152.0, 0, 80], [0, 152, 60], [0, 0, 1]]), 320, 120, "optical")
    assert "320x120" in mistake(capfd, *ground)
    io.write_camera_info(info, np.array([[152.0, 0, 80], [0, 152, 60], [0, 0, 1]]), 160, 120, "optical")
    PilImage.new("L", (160, 120), 7).save(depth)
    assert "16-bit" in mistake(capfd, *ground)


def test_a_mistake_with_json_is_an_object_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ground", "none.png", "the mug", "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["code"] == "BAD_FRAME"
    assert main(["ground", "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["code"] == "USAGE"


def test_a_missing_package_is_a_failure_that_names_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['open3d'] = None\n"
        f"from molmo_ros.cli import main; sys.exit(main(['sim', {str(tmp_path)!r}]))"
    )
    done = run(code=code)
    assert done.returncode == 1 and "open3d" in done.stderr and "pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_sim_writes_frames_that_can_be_read_with_their_truth(frames: Path) -> None:
    for stem in ("000000", "000001"):
        frame = io.read_frame(
            frames / f"{stem}_color.png", frames / f"{stem}_depth.png", frames / "camera_info.yaml"
        )
        truth = json.loads((frames / f"{stem}_truth.json").read_text())
        ids = np.asarray(PilImage.open(frames / f"{stem}_instances.png"))
        assert ids.shape == frame.depth.shape == (480, 640)
        assert np.isfinite(frame.depth).mean() > 0.5
        assert truth["objects"], "a scene has objects"
        for thing in truth["objects"]:
            assert (ids == thing["id"]).sum() == thing["pixels"] > 0
            assert np.asarray(thing["T_world_object"]).shape == (4, 4)


def _ground(frames: Path, *more: str) -> tuple[dict[str, Any], str]:
    done = run("ground", str(frames / "000000_color.png"), "the red mug", *more, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr  # json.loads fails if anything else was printed


def test_ground_with_depth_prints_json_and_draws(frames: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.png"
    depth = ["--depth", str(frames / "000000_depth.png"), "--camera-info", str(frames / "camera_info.yaml")]
    result, _ = _ground(frames, *depth, "--out", str(out))
    assert result["query"] == "the red mug" and isinstance(result["answer"], str)
    assert len(result["targets"]) == len(result["points"])
    assert {"preprocess", "vision", "prefill", "decode", "total"} <= result["stages_ms"].keys()
    for target in result["targets"]:
        assert {"point", "status", "position", "grasp", "pregrasp", "width", "quality"} <= target.keys()
    assert PilImage.open(out).width > 1280 and result["picture"] == str(out)


def test_a_hole_of_the_depth_is_told_in_json_and_text() -> None:
    from molmo_ros.cli import report
    from molmo_ros.datatypes import Answer, Grounding

    target = make_target(*make_frame(160, 120))
    for hole, words in ((6.3, ", depth from 6 px beside it"), (0.0, None)):
        found = replace(target, depth_distance=hole)
        result = to_plain(report.grounding_keys(Grounding("it", Answer("", (target.point,)), (found,))))
        assert result["targets"][0]["depth_distance"] == hole
        text = report.block(result)
        assert words in text if words else "depth from" not in text


def test_ground_without_depth_gives_pixels(frames: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.png"
    result, _ = _ground(frames, "--out", str(out))
    assert result["targets"] == []
    for point in result["points"]:
        assert {"x", "y", "label", "confidence", "covariance"} <= point.keys()
        assert -0.5 <= point["x"] <= 639.5 and -0.5 <= point["y"] <= 479.5
    assert PilImage.open(out).size == (640, 480)


def test_demo_prints_a_block_and_draws(tmp_path: Path) -> None:
    out = tmp_path / "demo.png"
    done = run("demo", "--out", str(out))
    assert done.returncode == 0, done.stderr
    names = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"query", "answer", "stages", "picture"} <= names
    assert PilImage.open(out).width > 1280


def test_bench_gives_medians_and_shares() -> None:
    done = run("bench", "--repeat", "2", "--transformers", "none", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["repeat"] == 2 and result["ms_query_p50"] <= result["ms_query_p95"]
    assert 0.5 < sum(result["stages_share"].values()) <= 1.01
    assert result["peak_rss_mb"] > 50
    assert result["passes"] <= 8 and result["passes"] < result["passes_plain"]
    assert 0 < result["ms_second_query_p50"] < result["ms_points_p50"]
    assert result["ratio_vs_transformers"] is None and result["transformers"] == "not asked for"
    assert {"bytes_per_token", "bandwidth_gbs", "fraction"} == result["limit"].keys()


def test_eval_gives_its_numbers() -> None:
    done = run("eval", "tiny", "--scenes", "2", "--seed", "77", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {"in_mask", "absent", "count", "px_error_median", "position_error_mm_median"} <= result.keys()
    assert result["scenes"] == 2 and result["seed"] == 77
    assert all(
        value is None or 0 <= value <= 1 for value in (result["in_mask"], result["absent"], result["count"])
    )


def test_summary_is_of_all_queries() -> None:
    stages = [
        {"vision": 10.0, "decode": 30.0},
        {"vision": 20.0, "decode": 30.0, "grasp": 10.0},
        {"vision": 30.0},
    ]
    result = summary([50.0, 70.0, 40.0], stages)
    assert result["ms_query_p50"] == 50.0
    assert result["stages_ms"] == {"vision": 20.0, "decode": 30.0, "grasp": 0.0}
    assert result["stages_share"] == {"vision": 0.375, "decode": 0.375, "grasp": 0.0625}


def test_info_describes_the_built_in_model(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "tiny", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["config"]["model_type"] == "molmo2" and result["parameters"] > 1_000_000
    assert result["file_bytes"] <= 10_000_000
    assert main(["info", "tiny"]) == 0
    out = capfd.readouterr().out
    assert "vision" in out and "onnx         yes" in out
    assert result["generation"] == "Molmo2" and result["runtimes"]["onnx"] == ""
    assert result["memory_bytes"]["fp16"]["1024"] > result["parameters"]


def test_what_prints_in_between_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with stdout_free():
        print("from Python")
        os.write(1, b"from a C library")
    out, err = capfd.readouterr()
    assert out == "" and "from Python" in err and "from a C library" in err


def test_numbers_become_plain_json() -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.array([1.0, np.nan]),
        "c": (np.int64(3), None),
        "d": {2, 1},
        "e": True,
    }
    plain = to_plain(value)
    assert plain == {"a": 0.5, "b": [1.0, None], "c": [3, None], "d": [1, 2], "e": True}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
