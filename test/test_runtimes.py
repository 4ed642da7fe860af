"""Choosing a runtime, and what its import drags in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_molmo1
from tiny_molmo2 import write_checkpoint
from tiny_molmo_point import write_checkpoint as write_point

from molmo_ros.checkpoint.checkpoint import Checkpoint, load_checkpoint
from molmo_ros.errors import RuntimeUnavailableError
from molmo_ros.runtimes.select import load_runtime


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(str(write_checkpoint(tmp_path_factory.mktemp("runtimes") / "ckpt")))


def test_auto_is_onnx_here(checkpoint: Checkpoint) -> None:
    stages: list[tuple[str, float]] = []
    runtime = load_runtime(checkpoint, progress=lambda stage, fraction: stages.append((stage, fraction)))
    assert runtime.name == "onnx"
    assert stages[-1] == ("ready", 1.0) and [f for _, f in stages] == sorted(f for _, f in stages)
    runtime.close()


def test_unknown_runtime(checkpoint: Checkpoint) -> None:
    names = "auto, onnx, openvino, cuda, tensorrt, tensorrt_rtx, eager"
    with pytest.raises(RuntimeUnavailableError, match=f"choose one of {names}"):
        load_runtime(checkpoint, "tensorflow")


@pytest.mark.parametrize(("runtime", "module"), [("onnx", "onnxruntime"), ("eager", "transformers")])
def test_missing_package_names_the_command(
    checkpoint: Checkpoint, runtime: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else object())
    with pytest.raises(RuntimeUnavailableError, match=rf"{module}, which is not installed: pip install"):
        load_runtime(checkpoint, runtime)


@pytest.mark.parametrize("write", [write_checkpoint, tiny_molmo1.write_checkpoint, write_point])
def test_answering_imports_neither_torch_nor_transformers(write: Any, tmp_path: Path) -> None:
    """In a fresh interpreter that cannot import them at all."""
    folder = write(tmp_path / "c")
    code = f"""
import sys
for name in ("torch", "transformers", "torchvision", "rclpy"):
    sys.modules[name] = None
import numpy as np
from molmo_ros.answer.molmo import Molmo
image = np.zeros((48, 64, 3), np.uint8)
answer = Molmo.load({str(folder)!r}).answer(image, "Point to it.", max_new_tokens=3)
assert len(answer.token_ids) == 3
assert not [m for m in sys.modules if m.split(".")[0] in ("torch", "transformers") and sys.modules[m]]
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
