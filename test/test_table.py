"""The tests that README.md of this folder names exist."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_each_test_of_the_table_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (HERE / "README.md").read_text(encoding="utf-8"))
    assert len(named) > 100
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (HERE / file).is_file() or f"def {name}(" not in (HERE / file).read_text(encoding="utf-8")
    ]
    assert missing == []
