"""Libraries that phone home by default do not do so here.

Measured with ONNX Runtime 1.31 and OpenVINO 2026.4: the first connects to its maker when a session is made
and keeps a device id in the user's cache; the second calls an analytics service when it is imported and keeps
an id in the home folder. A program that imports onnxruntime itself should import this package first, or set
ORT_DISABLE_TELEMETRY. Whoever wants the reports sets the variable to 0.
"""

from __future__ import annotations

import os
import sys


def switch_off() -> None:
    """Must run before the libraries are imported; variables that are already set are left as they are."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # OpenVINO has no switch for a single process. It does without this package where it cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
