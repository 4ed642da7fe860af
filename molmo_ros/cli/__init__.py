"""The command ``molmo-ros``. Its sub-commands import heavy modules only when they run."""

from __future__ import annotations

import os

# Before numpy is imported: threads of its OpenBLAS keep spinning for a while after each product, on cores
# that the model needs, and no matrix here is large enough to gain from them.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from molmo_ros.cli.entry import main

__all__ = ["main"]
