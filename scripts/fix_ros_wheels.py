"""Point the CMake files of ROS 2 wheels at this interpreter.

The wheels export CMake targets that name the include folders of the machine they were built on, and CMake
refuses targets with folders that do not exist. Run it with the interpreter of the environment; a second run
changes nothing.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy as np

NUMPY = re.compile(r"/opt/python/cp3[^;\"]*/site-packages/numpy/_?core/include")
PYTHON = re.compile(r"/opt/python/cp3[^;\"/]*/include/python3\.[0-9]+")


def fix(prefix: Path) -> int:
    """Rewrite the CMake files under prefix/share and return how many changed."""
    changed = 0
    for path in prefix.glob("share/*/cmake/*.cmake"):
        old = path.read_text(encoding="utf-8")
        new = NUMPY.sub(lambda _: np.get_include(), old)
        new = PYTHON.sub(lambda _: sysconfig.get_path("include"), new)
        if new != old:
            path.write_text(new, encoding="utf-8")
            changed += 1
    return changed


if __name__ == "__main__":
    print(f"{fix(Path(sys.prefix))} CMake files fixed")
