"""The soak in short. MOLMO_ROS_SOAK_MINUTES=60, or ``python -m molmo_ros.tools.soak``, is the long one."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image as PilImage

from molmo_ros.tools.soak import Log, plot, soak, summary

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
    # buffers for new clients still grow in the first minutes: in short it can only tell a runaway
    assert result["memory_growth"] < (0.02 if MINUTES >= 30 else 0.6)
    plot(log, tmp_path / "soak.png")
    assert PilImage.open(tmp_path / "soak.png").width > 800


def test_the_summary_counts_right() -> None:
    log = Log(0.0)
    log.queries = [(float(i), 10.0 if i < 50 else 20.0, "") for i in range(100)]
    log.queries += [(5.0, float("nan"), "BUSY"), (6.0, float("nan"), "LOST"), (7.0, float("nan"), "")]
    log.memory = [(float(i), 500.0 if i < 10 else 200.0 + i) for i in range(101)]
    told = summary(log)
    assert (told["requests"], told["lost"], told["answered"]) == (103, 1, 101)
    assert (told["p95_first_tenth_ms"], told["p95_last_tenth_ms"], told["slower"]) == (10.0, 20.0, 2.0)
    assert 0.3 < told["memory_growth"] < 0.4  # from about 224 MB to about 295, the first fifth left out
