#!/usr/bin/env python3
"""Write docs/licences.md: what each package that is needed at run time says of its licence.

scripts/env.sh python scripts/licences.py
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
# requirements/*.txt that users install
LAYERS = ("base", "sim", "openvino", "bag", "eval", "mcp", "points", "eager")
# What a package's metadata leaves out or says in a page of text, and where it stands instead.
TOLD_ELSEWHERE = {"open3d-cpu": "MIT", "open3d": "MIT", "setuptools": "MIT", "torch": "BSD-3-Clause"}
LONGEST = 60  # of what is a name and not the text of a licence
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")
HEAD = """\
# Licences

This package is under Apache-2.0, the weights of the built-in model and of the mask network too: both are
trained here, on scenes made here. What it needs at run time comes from the package index; each package says
the following of itself. `python scripts/licences.py` writes this page from the metadata of what is installed,
and a test checks that nothing is missing. ROS 2 itself (Apache-2.0, parts under BSD and MIT) is not listed,
nor is what only development needs.

| package | licence | needed by |
|---|---|---|
"""


def named(layer: str) -> list[str]:
    """The packages that a file in requirements/ names."""
    lines = (ROOT / "requirements" / f"{layer}.txt").read_text(encoding="utf-8").splitlines()
    return [match[0].lower().replace("_", "-") for line in lines if (match := NAME.match(line))]


def closure(name: str, found: dict[str, Distribution]) -> None:
    """The package and all that it needs in turn, as far as it is installed."""
    key = name.lower().replace("_", "-")
    if key in found:
        return
    try:
        found[key] = distribution(name)
    except PackageNotFoundError:
        return
    for line in found[key].requires or []:
        if "extra ==" not in line and (match := NAME.match(line)):
            closure(match[0], found)


def licence(name: str, package: Distribution) -> str:
    """Its licence as a name; empty if it tells none."""
    metadata = package.metadata
    if name in TOLD_ELSEWHERE:
        return TOLD_ELSEWHERE[name]
    told = metadata.get_all("Classifier") or []
    classifiers = [line.split(" :: ")[-1] for line in told if line.startswith("License ::")]
    for words in (metadata["License-Expression"], metadata["License"], ", ".join(classifiers)):
        line = " ".join((words or "").split())
        if line and line.upper() != "UNKNOWN" and len(line) <= LONGEST:
            return line
    return ", ".join(classifiers)


def rows() -> dict[str, tuple[str, str]]:
    """package -> its licence, and the layers that need it."""
    needed: dict[str, list[str]] = {}
    packages: dict[str, Distribution] = {}
    for layer in LAYERS:
        found: dict[str, Distribution] = {}
        for name in named(layer):
            closure(name, found)
        packages |= found
        for name in found:
            needed.setdefault(name, []).append(layer)
    return {name: (licence(name, packages[name]), ", ".join(needed[name])) for name in sorted(packages)}


def main() -> None:
    """Write the page."""
    lines = [f"| {name} | {told} | {layers} |" for name, (told, layers) in rows().items()]
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
