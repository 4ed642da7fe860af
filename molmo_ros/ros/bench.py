"""From a query to published targets, measured by a client: client, node and camera are three processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray

from molmo_ros.errors import CancelledError, MolmoRosError
from molmo_ros.msg import GraspTargetArray
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.demo import running_nodes

PAUSE_S = 0.15  # between queries: the camera's next image has come, so that none is answered from the cache
DIAGNOSTICS_S = 2.5  # long enough for a message of the 1 Hz diagnostics that counts the last query


def run_bench(
    query: str,
    seed: int,
    repeat: int,
    *,
    checkpoint: str = "tiny",
    runtime: str = "auto",
    gripper: str = "franka_hand",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Ask ~/ground again and again, each time on a new frame.

    Returns: ms_targets_p50 and _p95, from the call to the arrival of ~/targets; stages_ms, stages_ms_p95 and
    stages_share from the node's diagnostics; queries. Raises: MolmoRosError if the node refuses.
    """
    with running_nodes(seed, checkpoint, runtime, gripper, say) as client:
        arrivals: list[float] = []
        diagnostics: list[DiagnosticArray] = []
        subscribe = client.node.create_subscription
        subscribe(GraspTargetArray, "/molmo/targets", lambda _: arrivals.append(time.perf_counter()), 10)
        subscribe(DiagnosticArray, "/diagnostics", diagnostics.append, 10)
        _time_query(client, query, arrivals)  # the first one warms up
        times = [_time_query(client, query, arrivals) for _ in range(repeat)]
        client.spin(DIAGNOSTICS_S)
    stages = {end: _stages(diagnostics[-1], f"_ms_{end}") for end in ("p50", "p95")}
    parts = {name: ms for name, ms in stages["p50"].items() if name != "total"}
    return {
        "query": query,
        "queries": repeat,
        "ms_targets_p50": float(np.percentile(times, 50)),
        "ms_targets_p95": float(np.percentile(times, 95)),
        "stages_ms": stages["p50"],
        "stages_ms_p95": stages["p95"],
        "stages_share": {name: ms / sum(parts.values()) for name, ms in parts.items()},
    }


def _time_query(client: GraspClient, query: str, arrivals: list[float], wait_s: float = 10.0) -> float:
    """Milliseconds from the call to the arrival of the targets on their topic."""
    client.spin(PAUSE_S)
    arrivals.clear()
    started = time.perf_counter()
    response = client.find(query)
    if not response.success:
        raise MolmoRosError(response.message)
    while not arrivals:
        if time.perf_counter() - started > wait_s:
            raise CancelledError(f"The node answered, but /molmo/targets stayed silent for {wait_s:.0f} s.")
        client.spin(0.001)
    return (arrivals[0] - started) * 1e3


def _stages(message: DiagnosticArray, end: str) -> dict[str, float]:
    values = [pair for status in message.status for pair in status.values]
    return {pair.key[: -len(end)]: float(pair.value) for pair in values if pair.key.endswith(end)}
