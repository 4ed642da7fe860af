"""Engines: what is refused and how, what a killed build leaves, and a real compilation without a GPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_molmo2 import write_checkpoint

from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.cli import main
from molmo_ros.errors import (
    EngineBuildError,
    EngineError,
    EngineMismatchError,
    ParameterError,
    RuntimeUnavailableError,
)
from molmo_ros.network.precision import GPU_PRECISIONS
from molmo_ros.runtimes.engine_store import (
    Manifest,
    check_files,
    check_fits,
    checkpoint_hash,
    engine_home,
    find_engine,
    list_engines,
    read_manifest,
)
from molmo_ros.runtimes.export import DECODER, VISION, export
from molmo_ros.runtimes.select import load_runtime
from molmo_ros.tools import build_engine as builder
from molmo_ros.tools.compile_trt import compile_onnx
from molmo_ros.tools.recipes import Recipe, change, load_recipe, recipe_names

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return load_checkpoint("tiny")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOLMO_ROS_ENGINES", str(tmp_path / "home"))
    assert engine_home() == tmp_path / "home"
    return tmp_path / "home"


@pytest.fixture(scope="module")
def compiler() -> Any:
    """TensorRT for RTX, whose builder needs no GPU."""
    return pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13 to compile in tests")


@pytest.fixture(scope="module")
def exported(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported graphs with a manifest: all that is checked of an engine can be checked on them."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    builder.export_graphs(tiny, "int4", "gpu", folder)
    return folder


@pytest.fixture
def engine(exported: Path, home: Path) -> tuple[Path, Manifest]:
    """A copy in the default place, whose manifest says that it was compiled for SM86."""
    folder = home / "tiny"
    shutil.copytree(exported, folder)
    change_manifest(folder, runtime="tensorrt_rtx", runtime_version="1.7.1", sm=86, gpu="RTX 3060")
    return folder, read_manifest(folder)


def change_manifest(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_fits_is_found(engine: tuple[Path, Manifest], tiny: Checkpoint) -> None:
    folder, manifest = engine
    check_files(folder, manifest)
    assert find_engine(tiny, "auto", "tensorrt_rtx", "1.7.1", 86) == (folder, manifest)
    assert find_engine(tiny, "int4", "tensorrt_rtx", "1.7.1", 86)[0] == folder
    assert [found for found, _ in list_engines()] == [folder]
    assert (
        manifest.bytes
        == sum(p.stat().st_size for p in folder.iterdir()) - (folder / "manifest.json").stat().st_size
    )


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({"sm": 89}, "is for SM86 (RTX 3060), this GPU is SM89; build one that fits: molmo-ros engine build"),
        ({"runtime_version": "1.8.0"}, "was built with tensorrt_rtx 1.7.1, here is 1.8.0"),
        ({"runtime": "tensorrt"}, "is for runtime tensorrt_rtx, not tensorrt"),
        ({"precision": "bf16"}, "has precision int4, not bf16"),
    ],
)
def test_what_does_not_fit_is_refused(
    engine: tuple[Path, Manifest], tiny: Checkpoint, there: dict[str, Any], words: str
) -> None:
    here = {"precision": "auto", "runtime": "tensorrt_rtx", "runtime_version": "1.7.1", "sm": 86, **there}
    with pytest.raises(EngineMismatchError) as error:
        check_fits(engine[1], checkpoint=tiny, **here)
    assert words in str(error.value)
    with pytest.raises(EngineMismatchError):
        find_engine(tiny, here["precision"], here["runtime"], here["runtime_version"], here["sm"])


def test_other_weights_are_refused(engine: tuple[Path, Manifest], tmp_path: Path) -> None:
    other = load_checkpoint(str(write_checkpoint(tmp_path / "other")))
    with pytest.raises(EngineMismatchError, match=f"other weights .*--checkpoint {tmp_path}/other"):
        check_fits(engine[1], checkpoint=other)


def test_the_hash_of_a_checkpoint_changes_with_its_weights(tmp_path: Path) -> None:
    one, same, two = (
        load_checkpoint(str(write_checkpoint(tmp_path / name, seed=seed)))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert checkpoint_hash(one) == checkpoint_hash(same) != checkpoint_hash(two)


def test_damaged_files_are_refused(engine: tuple[Path, Manifest]) -> None:
    folder, manifest = engine
    path = folder / "decoder.data"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(EngineError, match=f"has {len(content) - 1} bytes, its manifest says {len(content)}"):
        check_files(folder, manifest)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(EngineError, match=r"decoder.data has sha256 .*build the engine again"):
        check_files(folder, manifest)
    path.unlink()
    with pytest.raises(EngineError, match=r"decoder.data .* is missing"):
        check_files(folder, manifest)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "files": {}}', '{"format": 1, "unknown": 1}']
)
def test_damaged_manifests_are_refused(home: Path, content: str) -> None:
    (home / "x").mkdir(parents=True)
    (home / "x" / "manifest.json").write_text(content)
    with pytest.raises(EngineError, match="again"):
        read_manifest(home / "x")
    assert isinstance(next(iter(list_engines()))[1], EngineError)


def test_a_manifest_cannot_name_files_elsewhere(engine: tuple[Path, Manifest]) -> None:
    folder, manifest = engine
    change_manifest(folder, files={"decoder": {**manifest.files["decoder"], "name": "../../etc/passwd"}})
    with pytest.raises(EngineError, match="named with a folder"):
        read_manifest(folder)


def test_no_engine_at_all(tiny: Checkpoint, home: Path) -> None:
    with pytest.raises(EngineError, match=r"no engine in .*molmo-ros engine build --checkpoint .* --sm 87"):
        find_engine(tiny, "int4", "tensorrt", "10.3.0", 87)
    with pytest.raises(EngineError, match="holds no finished engine"):
        read_manifest(home)


def test_too_little_memory_or_disk(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    int4 = GPU_PRECISIONS["int4"]
    builder.check_room(tiny, int4, tmp_path / "new")
    monkeypatch.setattr(builder, "available_memory", lambda: 4e8)
    with pytest.raises(EngineBuildError, match=r"takes about 1\.0 GB of memory, 0\.4 GB are free.*--force"):
        builder.check_room(tiny, int4, tmp_path)
    builder.check_room(tiny, int4, tmp_path, force=True)
    monkeypatch.setattr(builder.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(EngineBuildError, match=r"0\.0 GB free"):
        builder.check_room(tiny, int4, tmp_path)


def test_recipes(tmp_path: Path) -> None:
    assert recipe_names() == ["agx_orin", "cpu", "datacenter", "orin_nano", "rtx", "thor"]
    for name in recipe_names():
        assert load_recipe(name).sequence == 2048
    assert load_recipe("agx_orin") == Recipe("Jetson AGX Orin", "tensorrt", 87, "int4", 2048)
    assert change(load_recipe("rtx"), sm=120, precision=None).sm == 120
    path = tmp_path / "mine.yaml"
    mistakes = {
        "sm: x": "sm is 'x', which is no int",
        "speed: 1": "no 'speed'; it has gpu",
        "[": "not valid YAML",
        "precision: int3": 'precision is "int3"; choose',
        "sequence: 100": "in steps of 64",
        "1": "no record",
    }
    for text, words in mistakes.items():
        path.write_text(text)
        with pytest.raises(ParameterError, match=words):
            load_recipe(str(path))
    with pytest.raises(ParameterError, match='no recipe "orin"; give a YAML file or one of agx_orin'):
        load_recipe("orin")


@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_rtx"])
def test_runtimes_that_are_not_there(tiny: Checkpoint, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        RuntimeUnavailableError, match=rf'"{module}" is not installed .*(pip install|JetPack)'
    ):
        load_runtime(tiny, module)


def test_auto_says_why_it_takes_no_engine(
    engine: tuple[Path, Manifest], tiny: Checkpoint, compiler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Here for want of a GPU; with one, because the engine is for another version."""
    runtime = load_runtime(tiny)
    assert runtime.name == "onnx" and "not tensorrt_rtx: " in caplog.text
    runtime.close()


def test_command(
    engine: tuple[Path, Manifest], tmp_path: Path, capfd: pytest.CaptureFixture[str], home: Path
) -> None:
    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        status = main(["engine", *arguments, "--json"])
        return status, json.loads(capfd.readouterr().out)

    assert run("list")[1]["engines"][0]["sm"] == 86
    status, result = run("export", "--precision", "bf16", "--out", str(tmp_path / "graphs"))
    assert status == 0 and result["precision"] == "bf16" and (tmp_path / "graphs" / "decoder.onnx").is_file()
    status, result = run("check", str(tmp_path / "graphs"), "--checkpoint", "tiny")
    assert status == 0 and result["ok"] and result["compared"]["checkpoint"]
    status, result = run("export", "--out", str(tmp_path / "graphs"))
    assert status == 2 and "not empty" in result["error"]
    status, result = run("check", str(home / "tiny"), "--sm", "120")
    assert status == 1 and result["code"] == "ENGINE_MISMATCH"
    (home / "tiny" / "decoder.onnx").write_bytes(b"")
    status, result = run("check", str(home / "tiny"))
    assert status == 1 and result["code"] == "BAD_ENGINE" and "has 0 bytes" in result["error"]
    status, result = run("build", "--recipe", "nope")
    assert status == 2 and result["code"] == "BAD_PARAMETER"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int4"])
def test_every_attention_becomes_one_kernel(
    compiler: Any, tiny: Checkpoint, tmp_path: Path, precision: str
) -> None:
    """All graphs of the built-in model, really compiled for three generations of GPUs."""
    export(tiny, tmp_path / "graphs", GPU_PRECISIONS[precision])
    ranges = builder.profiles(tiny, 2048)
    layers = {VISION: tiny.config.vision.num_layers + 1, DECODER: tiny.config.text.num_layers}
    assert layers == {VISION: 5, DECODER: 4}
    rounded = precision in ("int8", "int4")  # their vision is that of bf16
    for part in (DECODER,) if rounded else (VISION, DECODER):
        for sm in (86, 89, 120):
            source, plan = tmp_path / "graphs" / f"{part}.onnx", tmp_path / f"{part}{sm}"
            compiled = compile_onnx("tensorrt_rtx", source, plan, ranges[part][:1], sm)
            assert compiled.attention_kernels == layers[part], (part, sm)
            assert compiled.bytes == plan.stat().st_size > 1e6


@pytest.mark.slow
def test_build_and_a_build_that_is_killed(compiler: Any, tiny: Checkpoint, tmp_path: Path) -> None:
    stages: list[tuple[str, float]] = []
    recipe = change(load_recipe("rtx"), sm=86, sequence=512)
    folder, manifest = builder.build_engine(
        tiny, recipe, tmp_path / "e", lambda stage, share: stages.append((stage, share))
    )
    assert manifest.attention == {VISION: [5, 5], DECODER: [8, 8]}
    assert (manifest.sm, manifest.runtime_version) == (86, compiler.__version__)
    assert manifest.kv["layout"] == [8, 512, 2, 32] and manifest.quantisation["weights"] == "int4"
    assert stages[-1] == ("ready", 1.0) and any("compiling decoder" in s for s, _ in stages)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*(e["name"] for e in manifest.files.values()), "manifest.json"]
    )
    command = [sys.executable, "-m", "molmo_ros.cli", "engine", "build", "--sm", "89", "--out", str(folder)]
    child = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob(".build-*/vision.engine")) and not list(folder.glob("vision*sm89*")):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert read_manifest(folder) == manifest and list(folder.glob(".build-*"))
    check_files(folder, manifest)
    with builder._staging(folder):
        assert len(list(folder.glob(".build-*"))) == 1
    assert not list(folder.glob(".build-*"))


BUILD_WITH_LITTLE_MEMORY = """
import re, resource, sys
from pathlib import Path
from molmo_ros.checkpoint.checkpoint import load_checkpoint
from molmo_ros.errors import EngineBuildError
from molmo_ros.tools import build_engine as builder
from molmo_ros.tools.recipes import change, load_recipe

compile_onnx = builder.compile_onnx

def with_little_memory(*args, **options):
    size = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (size + (100 << 20), -1))
    return compile_onnx(*args, **options)

builder.compile_onnx = with_little_memory
try:
    builder.build_engine(load_checkpoint("tiny"), change(load_recipe("rtx"), sm=86), Path(sys.argv[1]))
except EngineBuildError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_build_that_runs_out_of_memory(
    compiler: Any, engine: tuple[Path, Manifest], tiny: Checkpoint
) -> None:
    """It says so, and the engine that was there before is found as before."""
    folder, manifest = engine
    command = [sys.executable, "-c", BUILD_WITH_LITTLE_MEMORY, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "did not build vision.onnx for SM86" in done.stdout and "build on a larger machine" in done.stdout
    assert find_engine(tiny, "auto", "tensorrt_rtx", "1.7.1", 86) == (folder, manifest)
    check_files(folder, manifest)
    assert not list(folder.glob(".build-*"))


@pytest.mark.slow
def test_what_the_compiler_refuses(compiler: Any, tiny: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(EngineMismatchError, match=r"cannot compile for SM87; it knows 75, .*on the device"):
        builder.build_engine(tiny, change(load_recipe("rtx"), sm=87), tmp_path / "e")
    with pytest.raises(ParameterError, match="Engines have no precision int8_dynamic"):
        builder.build_engine(tiny, replace(Recipe(), sm=86, precision="int8_dynamic"), tmp_path / "e")
    node = onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([node], "bad", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "bad.onnx")
    with pytest.raises(EngineBuildError, match=r"tensorrt_rtx .* cannot parse bad.onnx: .*NoSuchOperator"):
        compile_onnx("tensorrt_rtx", tmp_path / "bad.onnx", tmp_path / "plan", [], 86)
