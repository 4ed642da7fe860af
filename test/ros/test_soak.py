"""The soak in short. MOLMO_ROS_SOAK_MINUTES=60, or ``python -m molmo_ros.tools.soak``, is the long one."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import inf, isnan
from pathlib import Path

from PIL import Image as PilImage

from molmo_ros.tools.soak.log import Log, Usage, failures, plot, summary, warm_at
from molmo_ros.tools.soak.run import KINDS, soak

MINUTES = float(os.environ.get("MOLMO_ROS_SOAK_MINUTES", "0.3"))


def test_use_and_faults_lose_no_request(tmp_path: Path) -> None:
    log, alive = soak(MINUTES, seed=os.getpid(), fault_every_s=3.0, rate_hz=10.0, most_age_s=6.0)
    result = summary(log)
    print(result)
    assert alive
    assert result["lost"] == 0 and result["answered"] > 0
    refusals = {"BUSY", "BAD_FRAME", "BAD_QUERY", "CANCELLED", "NOT_READY"}
    assert set(result["codes"]) <= {"answered"} | refusals
    assert result["faults"]
    # In short each kind of fault has not happened often enough to tell; a runaway shows all the same.
    memory = [usage.memory_mb for usage in log.usage]
    assert max(memory) < 2 * memory[0]
    if MINUTES >= 20:
        assert not failures(result), result
    plot(log, tmp_path / "soak.png", KINDS)
    assert PilImage.open(tmp_path / "soak.png").width > 800


def measured(memory: Callable[[float], float], cpu: float = 1.0, reference_ms: float = 10.0) -> Log:
    """A hundred seconds; queries take twice as long in the second half, the reference what is given there."""
    log = Log(0.0)
    log.queries = [(float(i), 10.0 if i < 50 else 20.0, "") for i in range(100)]
    log.usage = [
        Usage(
            float(i),
            memory(i),
            30.0,
            i + (cpu - 1) * max(i - 50.0, 0.0),
            10.0 if i < 50 else reference_ms,
        )
        for i in range(101)
    ]
    return log


def test_the_summary_counts_right() -> None:
    log = measured(lambda s: 500.0 if s < 10 else 200.0 + s)
    log.queries += [(5.0, float("nan"), "BUSY"), (6.0, float("nan"), "LOST"), (7.0, float("nan"), "")]
    told = summary(log)
    assert (told["requests"], told["lost"], told["answered"]) == (103, 1, 101)
    assert (told["p95_first_tenth_ms"], told["p95_last_tenth_ms"], told["slower"]) == (10.0, 20.0, 2.0)
    assert (told["cpu_first_tenth"], told["cpu_last_tenth"]) == (1.0, 1.0)
    assert told["memory_first_mb"] == 224.0 and told["memory_mb"] == 296.0  # the first fifth is left out
    assert told["memory_growth"] == 296 / 224 - 1
    assert len(failures(told)) == 3


def test_memory_counts_once_each_fault_has_happened_three_times() -> None:
    log = measured(lambda _: 200.0)
    log.faults = [(10.0 * i, kind) for i, kind in enumerate(["a", "b", "a", "b", "a", "b"])]
    assert warm_at(log, ["a", "b"]) == 50.0
    assert warm_at(log, ["a"]) == 40.0
    assert warm_at(log, []) == 20.0
    assert warm_at(log, ["a", "c"]) == inf
    told = summary(log, ["a", "c"])
    assert isnan(told["memory_growth"]) and len(failures(told)) == 1  # slower; no word of memory


def test_a_slower_machine_is_no_fault_unless_the_node_works_more() -> None:
    still = lambda _: 200.0  # noqa: E731
    assert len(failures(summary(measured(still)))) == 1
    assert failures(summary(measured(still, reference_ms=20.0))) == []
    assert failures(summary(measured(still, reference_ms=12.0)))  # that explains a part of it
    assert len(failures(summary(measured(still, cpu=1.5, reference_ms=20.0)))) == 1
