"""What a soak test measured, and which of it counts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from molmo_ros.datatypes import Array

WARM_UP = 0.2  # share of the time before memory counts, at least
ROUNDS = 3  # how often each kind of fault must have happened before memory counts
MOST_GROWTH, MOST_SLOWER = 0.02, 1.2
GRID = 10  # the first and the last 1/GRID of the time are compared


@dataclass(frozen=True)
class Usage:
    """The node at one moment, and how fast the machine is then."""

    when_s: float
    memory_mb: float  # resident, including memory shared with other processes
    shared_mb: float  # of that, shared memory, in which images arrive
    cpu_s: float  # processor time since its start
    reference_ms: float  # of a fixed computation, in the soak's own process


@dataclass
class Log:
    """What happened, in seconds since the start."""

    began: float = field(default_factory=time.monotonic)
    queries: list[tuple[float, float, str]] = field(default_factory=list)  # when, ms, code; "": answered
    usage: list[Usage] = field(default_factory=list)
    faults: list[tuple[float, str]] = field(default_factory=list)
    followed: int = 0

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began


def warm_at(log: Log, kinds: Sequence[str]) -> float:
    """When memory begins to count, in seconds; infinity if that moment never came.

    Pools of the middleware and heaps grow to what the worst mixture of clients and faults needs, and keep it.
    So each kind of fault must have happened ROUNDS times, and WARM_UP of the time must have passed.
    """
    warm = WARM_UP * log.usage[-1].when_s
    for kind in kinds:
        times = [when for when, name in log.faults if name == kind]
        warm = max(warm, times[ROUNDS - 1] if len(times) >= ROUNDS else np.inf)
    return warm


def summary(log: Log, kinds: Sequence[str] = ()) -> dict[str, Any]:
    """What counts. Times are those of answered queries outside bursts, in ms; memory in MB.

    kinds: of faults, that must have happened before memory counts; growth is NaN if they have not.
    "slower" is the p95 of the last tenth over that of the first, "machine_slower" the same of the reference.
    """
    codes = Counter(code or "answered" for _, _, code in log.queries)
    end = log.usage[-1].when_s
    times = np.array([(when, ms) for when, ms, code in log.queries if not code and np.isfinite(ms)])
    table = np.array([(u.when_s, u.memory_mb, u.shared_mb, u.cpu_s, u.reference_ms) for u in log.usage])
    warm = warm_at(log, kinds)
    settled = table[table[:, 0] >= warm]
    first, last = (_p95(part[:, 1]) for part in _ends(times, 0.0, end))
    reference = [_p95(part[:, 4]) for part in _ends(table, 0.0, end)]
    cpu = [_share(part) for part in _ends(table, 0.0, end)]
    memory = [_median(part[:, 1]) for part in _ends(settled, warm, end)]
    shared = [_median(part[:, 2]) for part in _ends(settled, warm, end)]
    return {
        "minutes": round(end / 60, 2),
        "requests": len(log.queries),
        "answered": codes["answered"],
        "codes": dict(codes),
        "lost": codes["LOST"],
        "followed_frames": log.followed,
        "faults": dict(Counter(name for _, name in log.faults)),
        "p50_ms": _median(times[:, 1]),
        "p95_first_tenth_ms": first,
        "p95_last_tenth_ms": last,
        "slower": last / first,
        "reference_p95_first_tenth_ms": reference[0],
        "reference_p95_last_tenth_ms": reference[1],
        "machine_slower": reference[1] / reference[0],
        "cpu_first_tenth": cpu[0],
        "cpu_last_tenth": cpu[1],
        "warm_after_minutes": warm / 60,
        "memory_first_mb": memory[0],
        "memory_mb": memory[1],
        "shared_mb": shared[1],
        "memory_growth": memory[1] / memory[0] - 1,
    }


def failures(result: dict[str, Any]) -> list[str]:
    """What exceeds its bound, in words; what could not be measured (NaN) is not a failure.

    Queries that are slower because the machine is (the reference slows down equally) are not the node's
    fault, unless it uses more processor time than at first: then it may be the node that slows the machine
    down.
    """
    told = []
    if result["lost"]:
        told.append(f"{result['lost']} requests lost")
    if result["memory_growth"] > MOST_GROWTH:
        told.append(f"memory grew by {result['memory_growth']:.1%} after warm-up")
    busier = result["cpu_last_tenth"] / result["cpu_first_tenth"] > MOST_SLOWER
    slower = result["slower"] / (1.0 if busier else max(1.0, result["machine_slower"]))
    if slower > MOST_SLOWER:
        told.append(f"p95 of the last tenth is {slower:.2f} times that of the first")
    return told


def _ends(rows: Array, begin: float, end: float) -> tuple[Array, Array]:
    """Rows of the first and of the last tenth between two times, which are in column 0."""
    tenth = (end - begin) / GRID
    return rows[(rows[:, 0] >= begin) & (rows[:, 0] <= begin + tenth)], rows[rows[:, 0] >= end - tenth]


def _p95(values: Array) -> float:
    return float(np.percentile(values, 95)) if len(values) else float("nan")


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _share(part: Array) -> float:
    """Of one processor, between the first and the last row."""
    if len(part) < 2:
        return float("nan")
    return float((part[-1, 3] - part[0, 3]) / (part[-1, 0] - part[0, 0]))


def plot(log: Log, path: Path, kinds: Sequence[str] = ()) -> None:
    """Time of each query, of the reference, memory and processor time over time; faults as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, middle, below) = plt.subplots(3, 1, sharex=True, figsize=(10, 7), layout="constrained")
    answered = np.array([(when, ms) for when, ms, code in log.queries if not code and np.isfinite(ms)])
    refused = np.array([when for when, _, code in log.queries if code])
    table = np.array([(u.when_s / 60, u.memory_mb, u.shared_mb, u.cpu_s, u.reference_ms) for u in log.usage])
    above.plot(answered[:, 0] / 60, answered[:, 1], ".", markersize=2, label="query, answered")
    above.plot(table[:, 0], table[:, 4], ".", markersize=1, color="0.6", label="reference computation")
    above.plot(refused / 60, np.full(len(refused), 1.0), "|", color="tab:red", label="refused")
    above.set(ylabel="ms", yscale="log")
    above.legend(loc="upper right", ncols=3, fontsize="small", markerscale=4)
    middle.plot(table[:, 0], table[:, 1], label="resident")
    middle.plot(table[:, 0], table[:, 2], label="of that, shared memory")
    middle.set(ylabel="memory of the node, MB", ylim=(0, None))
    if np.isfinite(warm := warm_at(log, kinds)):
        middle.axvline(warm / 60, color="black", linestyle=":", label="end of warm-up")
    middle.legend(loc="lower right", fontsize="small")
    minutes, share = _per_minute(table)
    below.plot(minutes, share)
    below.set(ylabel="processors used by the node", xlabel="minutes", ylim=(0, None))
    for axes in (above, middle):
        for when, _ in log.faults:
            axes.axvline(when / 60, color="0.9", linewidth=0.5, zorder=0)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _per_minute(table: Array) -> tuple[Array, Array]:
    """Middle of each half minute, and the processors in use in it."""
    grid = np.arange(0.0, table[-1, 0], 0.5)
    used = np.interp(grid, table[:, 0], table[:, 3])
    return (grid[1:] + grid[:-1]) / 2, np.diff(used) / 30.0
