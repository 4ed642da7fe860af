"""A tiny random checkpoint of every generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tiny_molmo1
import tiny_molmo_point
from tiny_molmo2 import OLMO, QWEN_BIAS, write_checkpoint

GENERATIONS: dict[str, Callable[[Path], Path]] = {
    "qwen": write_checkpoint,
    "qwen bias": lambda path: write_checkpoint(path, QWEN_BIAS),
    "olmo": lambda path: write_checkpoint(path, OLMO),
    "v1": lambda path: tiny_molmo1.write_checkpoint(path),
    "molmoe": lambda path: tiny_molmo1.write_checkpoint(path, tiny_molmo1.MIXTURE),
    "molmo point": tiny_molmo_point.write_checkpoint,
}
