"""Draw which part of the package imports which: python -m molmo_ros.tools.draw_imports docs/architecture.png

A part is a folder of ``molmo_ros/`` or a module beside the folders; BASE is left out, since all parts use it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

BASE = ("errors", "datatypes", "transforms", "untrusted", "locking", "packages", "telemetry")
GENERATED = ("msg", "srv", "action")  # by colcon, from the folders of these names
PACKAGE = Path(__file__).parents[1]

Parts = dict[str, dict[str, list[str]]]


def imports(package: Path = PACKAGE) -> Parts:
    """part -> imported part -> the files that import it, also inside functions and only for types."""
    found: Parts = {}
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package)
        part = file.parts[0].removesuffix(".py")
        if part in GENERATED:
            continue
        row = found.setdefault(part, {})
        for module in imported(ast.parse(path.read_text(encoding="utf-8"))):
            other = module.split(".")[1]
            if other not in (part, "__version__", *GENERATED):
                row.setdefault(other, []).append(str(file))
    found.pop("__init__")
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """The full names that a file imports from this package: modules, and names in them."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.startswith("molmo_ros."))


def levels(parts: Mapping[str, Mapping[str, object]]) -> dict[str, int]:
    """part -> 0 if it imports no other part, else one more than the highest that it imports."""

    @cache
    def level(part: str) -> int:
        return max((level(other) + 1 for other in parts.get(part, {}) if other not in BASE), default=0)

    return {part: level(part) for part in parts if part not in BASE}


def draw(out: Path) -> None:
    """Write the picture; an arrow is left out where a longer path leads to the same part."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyArrowPatch

    parts = imports()
    height = levels(parts)
    top = max(height.values())
    place: dict[str, tuple[float, int]] = {}
    for n in range(top, -1, -1):  # each part roughly below those that import it
        above = {p: [place[q][0] for q in place if p in parts[q]] for p in height if height[p] == n}
        row = sorted((sum(x) / max(len(x), 1), part) for part, x in above.items())
        place.update({part: ((i + 0.5) / len(row), n) for i, (_, part) in enumerate(row)})
    figure, axes = plt.subplots(figsize=(8.0, 0.85 * (top + 1)), layout="constrained")
    for part, (x, y) in place.items():
        for other in set(parts[part]) - set(BASE):
            if any(other in _reached(parts, near) for near in set(parts[part]) - {other}):
                continue
            to = place[other]
            axes.add_patch(
                FancyArrowPatch(
                    (x, y), to, arrowstyle="-|>", mutation_scale=9, shrinkA=12, shrinkB=12, color="0.6"
                )
            )
        name = f"{part}/" if (PACKAGE / part).is_dir() else f"{part}.py"
        axes.text(
            x, y, name, ha="center", va="center", bbox={"boxstyle": "round", "fc": "white", "ec": "0.3"}
        )
    axes.set(xlim=(0, 1), ylim=(-0.6, top + 0.6))
    axes.axis("off")
    figure.savefig(out, dpi=110)


def _reached(parts: Parts, part: str) -> set[str]:
    """Everything that a part imports, directly or not."""
    near = set(parts.get(part, {})) - set(BASE)
    return near.union(*(_reached(parts, other) for other in near)) if near else near


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
