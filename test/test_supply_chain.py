"""What the package may not do, read from its source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "molmo_ros"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "pty", "ftplib"}
# Where a module of the standard library that reaches outside is used on purpose.
ALLOWED = {
    "subprocess": {"tools/", "cli/", "ros/", "runtimes/"},
    "socket": {"runtimes/remote/server.py", "web/serve.py"},  # the latter listens, where the user says
    "http": {"runtimes/remote/"},
    "urllib": {"runtimes/remote/"},
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    ("os", "system"), ("os", "popen"), ("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load"),
    ("yaml", "load_all"), ("torch", "load"), ("tempfile", "mktemp"), ("np", "fromstring"),
}  # fmt: skip


def offences(source: str, name: str) -> list[str]:
    """Each forbidden thing in a module, with its line."""
    return [
        f"{name}:{getattr(node, 'lineno', 0)}: {found}"
        for node in ast.walk(ast.parse(source))
        for found in _offence(node, name)
    ]


def _offence(node: ast.AST, name: str) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        return [f"import {module}" for module in names if not _may_import(module.split(".")[0], name)]
    if not isinstance(node, ast.Call):
        return []
    found = []
    called = node.func
    if isinstance(called, ast.Name) and called.id in BUILTINS:
        found.append(called.id)
    whole = tuple(ast.unparse(called).split("."))
    if whole in ATTRIBUTES and not _safe_torch_load(node):
        found.append(".".join(whole))
    for keyword in node.keywords:
        given = keyword.value
        truthy = isinstance(given, ast.Constant) and bool(given.value)
        if keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and truthy:
            found.append(f"{keyword.arg}={ast.unparse(given)}")
    return found


def _safe_torch_load(node: ast.Call) -> bool:
    return [ast.unparse(k.value) for k in node.keywords if k.arg == "weights_only"] == ["True"]


def _may_import(module: str, name: str) -> bool:
    if module in MODULES:
        return False
    return module not in ALLOWED or name.startswith(tuple(ALLOWED[module]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_does_nothing_that_is_forbidden(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import subprocess", "import socket", "eval('1')",
        "import os\nos.system('x')", "yaml.load(text)", "f(shell=True)", "f(trust_remote_code=True)",
        "np.load(path, allow_pickle=True)", "torch.load(path)", "exec(code)", "import urllib.request",
    ],
)  # fmt: skip
def test_the_check_sees_it(source: str) -> None:
    assert offences(source, "module.py")
    fine = "yaml.safe_load(text)\ntorch.load(path, weights_only=True)\nmodel.eval()"
    assert not offences(fine, "module.py")


def test_every_requirement_says_what_it_is_for() -> None:
    folder = PACKAGE.parent / "requirements"
    for path in sorted(set(folder.glob("*.txt")) - {folder / "lock.txt"}):  # that one is made from the others
        for line in path.read_text().splitlines():
            if line and not line.startswith(("#", "-")):
                assert "#" in line, f"{path.name}: {line}"
