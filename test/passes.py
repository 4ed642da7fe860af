"""The logits of a pass, for tests that compare networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from molmo_ros.runtimes.base import Runtime


def run_logits(runtime: Runtime, *given: Any) -> np.ndarray:
    """(N,vocabulary); ``given`` as to ``Runtime.run``."""
    found = runtime.run(*given, logits=True)
    assert found.logits is not None
    return found.logits
