"""The imports keep to the table of docs/architecture.md."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import molmo_ros
from molmo_ros.tools.draw_imports import BASE, imported, imports

ROOT = Path(__file__).parents[1]
PAGE = "docs/architecture.md"
ROW = re.compile(r"^\| `(\w+)(?:/|\.py)` \|[^|]*\|([^|]*)\|$", re.MULTILINE)


def allowed() -> dict[str, list[str]]:
    """part -> the parts that it may import, in the order of the table."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    return {part: re.findall(r"\w+", others) for part, others in ROW.findall(text)}


def test_the_table_has_no_circle() -> None:
    """Each part imports only what stands above it, so the order of the table is an order of the layers."""
    above: set[str] = set()
    for part, others in allowed().items():
        assert set(others) <= above, f"{PAGE}: {part} may import {sorted(set(others) - above)} from below"
        above.add(part)
    assert not above & set(BASE)


def test_every_part_is_in_the_table() -> None:
    assert set(imports(ROOT / "molmo_ros")) - set(BASE) == set(allowed()), f"add it to the table of {PAGE}"


def test_imports_keep_to_the_table() -> None:
    table = allowed()
    wrong = [
        f"{file} imports {other}"
        for part, row in imports(ROOT / "molmo_ros").items()
        for other, files in row.items()
        for file in files
        if other not in (*BASE, *table.get(part, ()))
    ]
    assert not wrong, f"not allowed by {PAGE}: {wrong}"


def test_no_files_import_each_other() -> None:
    """Nor in a circle of several, wherever in a file the import stands."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "molmo_ros").rglob("*.py")
    }

    def module(name: str) -> str:
        return name if name in files else name.rpartition(".")[0]

    graph = {
        name: {module(other) for other in imported(ast.parse(path.read_text(encoding="utf-8")))} - {name}
        for name, path in files.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, with the files of the circle


def test_the_base_imports_nothing_but_the_base() -> None:
    for part, row in imports(ROOT / "molmo_ros").items():
        if part in BASE:
            assert set(row) <= set(BASE), f"{part} imports {sorted(set(row) - set(BASE))}"


def test_what_a_program_needs_is_imported_from_the_top() -> None:
    for name in molmo_ros.__all__:
        assert getattr(molmo_ros, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Grounders'"):
        _ = molmo_ros.Grounders
