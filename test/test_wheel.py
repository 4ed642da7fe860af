"""Wheel and sdist hold all that is needed, of one version; installed without ROS, the demo works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import molmo_ros

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "molmo_ros"
ONLY_BUILT = {"msg", "srv", "action"}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sdist and wheel, the wheel made from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def _source_files() -> set[str]:
    """Names from the root of all files of the package, but for caches and what colcon generates."""
    names = {path.relative_to(ROOT) for path in SOURCE.rglob("*") if path.is_file()}
    ours = [n for n in names if "__pycache__" not in n.parts and n.parts[1] not in ONLY_BUILT]
    kept = {name.as_posix() for name in ours}
    linked = [
        *(ROOT / "engines").glob("*.yaml"),
        *(ROOT / "msg").glob("*.msg"),
    ]  # links that rglob does not follow
    return kept | {f"molmo_ros/assets/{path.parent.name}/{path.name}" for path in linked}


@pytest.mark.slow
def test_every_file_of_the_package_is_in_wheel_and_sdist(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        assert _source_files() - set(wheel.namelist()) == set(), "name them in [tool.setuptools.package-data]"
    with tarfile.open(next(dist.glob("*.tar.gz"))) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "requirements/base.txt", *_source_files()} <= names


@pytest.mark.slow
def test_the_demo_works_from_the_wheel_without_ros(dist: Path, tmp_path: Path) -> None:
    """In an environment that sees the packages of this one but not the source, nor rclpy."""
    target, out = tmp_path / "site", tmp_path / "demo.png"
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    code = (
        f"import sys; sys.path[:0] = [{str(target)!r}]; sys.modules['rclpy'] = None; import molmo_ros; "
        f"assert molmo_ros.__file__.startswith({str(target)!r}); from molmo_ros.cli import main; "
        f"sys.exit(main(['demo', '--seed', '7', '--out', {str(out)!r}]))"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "AMENT_PREFIX_PATH")}
    env["PYTHONPATH"] = sysconfig.get_paths()["purelib"]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "grasp" in done.stdout and out.stat().st_size > 10_000


@pytest.mark.slow
def test_the_wheel_has_the_version(dist: Path) -> None:
    assert next(dist.glob("*.whl")).name == f"molmo_ros-{molmo_ros.__version__}-py3-none-any.whl"


def test_package_xml_repeats_the_version_of_the_package() -> None:
    """ROS's tools read no Python: molmo_ros/__init__.py is the source, and package.xml says the same."""
    text = (ROOT / "package.xml").read_text(encoding="utf-8")
    assert re.findall(r"<version>(.*?)</version>", text) == [molmo_ros.__version__]


def test_package_xml_is_what_bloom_releases() -> None:
    parser = pytest.importorskip("catkin_pkg.package", reason="comes with colcon")
    warnings: list[str] = []
    package = parser.parse_package(str(ROOT / "package.xml"), warnings=warnings)
    assert warnings == []
    assert package.get_build_type() == "ament_cmake" and package.licenses[0].file == "LICENSE"
    assert all(m.email for m in package.maintainers)
    assert "rosidl_interface_packages" in [group.name for group in package.member_of_groups]
