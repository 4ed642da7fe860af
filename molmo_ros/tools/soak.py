"""Hours of use in minutes, with faults: ``python -m molmo_ros.tools.soak --minutes 60 --plot soak.png``.

A simulated camera at 30 Hz and the node as processes of their own; a query a second, tracks that come and go,
and at random moments a fault: the camera stands still (SIGSTOP) until its frames are too old, a client is
killed in the middle of its track, a burst of calls, words that are none, a parameter that changes. Wanted: no
request is lost, memory grows by less than 2 % after warm-up, the last tenth is as quick as the first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ament_index_python.packages import get_package_share_directory
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters

from molmo_ros.datatypes import Array
from molmo_ros.errors import CancelledError, MolmoRosError
from molmo_ros.ros.bringup import fastdds_profile
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.processes import Processes
from molmo_ros.srv import Ground

RATE_HZ = 30.0
QUERIES = ("the white bowl", "all the mugs", "the blue banana", "the bowl")
TIMEOUT_S = 30.0  # of a query; later than that it is lost
MOST_AGE_S = 3.0  # of a frame; the camera stands still for a second more
GRACE_S = 10.0  # of a busy machine, for an answer to travel
BURST = 20
WARM_UP_S = 120.0  # at most, from a node that is ready to three answers
WARM_UP = 0.2  # share of the time before memory counts
MOST_GROWTH, MOST_SLOWER = 0.02, 1.2
DOOMED = """
from molmo_ros.ros.client import GraspClient
with GraspClient() as client:
    for _ in client.track("the white bowl"):
        print("following", flush=True)
"""


@dataclass
class Log:
    """What happened, in seconds since the start."""

    began: float = field(default_factory=time.monotonic)
    queries: list[tuple[float, float, str]] = field(default_factory=list)  # when, ms, code; "": answered
    memory: list[tuple[float, float]] = field(default_factory=list)  # when, MB
    faults: list[tuple[float, str]] = field(default_factory=list)
    followed: int = 0

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began


class Soak:
    """The node, its camera, and all who trouble them."""

    def __init__(self, processes: Processes, seed: int, rate_hz: float, most_age_s: float) -> None:
        self._random, self._most_age_s = random.Random(seed), most_age_s
        self._camera = processes.start_node("molmo_ros.ros.sim_camera_node", {"rate": rate_hz, "seed": 0})
        settings = {"max_frame_age_s": most_age_s, "frame_wait_s": most_age_s}
        self._node = processes.start_node("molmo_ros.ros.node", settings)
        self._client = GraspClient()
        self._set = self._client.node.create_client(SetParameters, "/molmo/set_parameters")
        self._end = threading.Event()
        self._lock = threading.Lock()
        self.log = Log()

    def run(self, seconds: float, fault_every_s: float) -> Log:
        """Until the time is over. Raises: NotReadyError if the node does not start."""
        self._client.wait_ready(180.0)
        give_up = time.monotonic() + WARM_UP_S
        while sum(not code for _, _, code in self.log.queries) < 3 and time.monotonic() < give_up:
            self._ask(self._client)  # they warm up, and the camera may still be starting
        self.log = Log()
        threads = [
            threading.Thread(target=self._follow),
            threading.Thread(target=self._trouble, args=[fault_every_s]),
        ]
        for thread in threads:
            thread.start()
        while self.log.now() < seconds and self._node.poll() is None:
            due = time.monotonic() + 1.0
            self._ask(self._client)
            self.log.memory.append((self.log.now(), _resident_mb(self._node.pid)))
            self._client.spin(max(0.0, due - time.monotonic()))
        self._end.set()
        for thread in threads:
            thread.join(4 * TIMEOUT_S)
        self._client.close()
        return self.log

    @property
    def alive(self) -> bool:
        """Whether camera and node still run."""
        return self._node.poll() is None and self._camera.poll() is None

    def _ask(self, client: GraspClient) -> None:
        begun = time.monotonic()
        try:
            code = client.find(self._random.choice(QUERIES), timeout_s=TIMEOUT_S).code
        except CancelledError:
            code = "LOST"
        with self._lock:
            self.log.queries.append((self.log.now(), 1e3 * (time.monotonic() - begun), code))

    def _follow(self) -> None:
        """Tracks that come and go, one after the other; half of them are left before their time is over."""
        with GraspClient() as client:
            while not self._end.wait(0.5):
                left_at = time.monotonic() + self._random.uniform(0.5, 6.0)
                for told in client.track(QUERIES[0], duration_s=5.0):
                    self.log.followed += told.stage == "following"
                    if time.monotonic() > left_at or self._end.is_set():
                        break

    def _trouble(self, every_s: float) -> None:
        faults: list[Callable[[], None]] = [
            self._stop_camera,
            self._kill_client,
            self._burst,
            self._nonsense,
            self._change,
        ]
        while not self._end.wait(self._random.uniform(0.5, 1.5) * every_s):
            fault = self._random.choice(faults)
            self.log.faults.append((self.log.now(), fault.__name__.strip("_")))
            fault()

    def _stop_camera(self) -> None:
        self._camera.send_signal(signal.SIGSTOP)
        self._end.wait(self._most_age_s + 1.0)
        self._camera.send_signal(signal.SIGCONT)

    def _kill_client(self) -> None:
        child = subprocess.Popen(
            [sys.executable, "-c", DOOMED], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert child.stdout is not None
        give_up = threading.Timer(20.0, child.kill)
        give_up.start()
        child.stdout.readline()
        child.kill()
        child.communicate()
        give_up.cancel()

    def _burst(self) -> None:
        """Calls at once; each is answered, or refused as BUSY."""
        with GraspClient() as client:
            service = client.node.create_client(Ground, "/molmo/ground")
            if not service.wait_for_service(10.0) or not _heard(client, service):
                return
            request = Ground.Request(query=QUERIES[0], timeout_s=TIMEOUT_S)
            futures = [service.call_async(request) for _ in range(BURST)]
            give_up = time.monotonic() + TIMEOUT_S + GRACE_S
            for future in futures:
                client.spin_until(future, max(0.0, give_up - time.monotonic()))
            codes = [future.result().code if future.done() else "LOST" for future in futures]
        with self._lock:
            self.log.queries += [(self.log.now(), float("nan"), code) for code in codes]

    def _nonsense(self) -> None:
        with GraspClient() as client:
            for words in ("", "\x00<points coords=", "x" * 100_000):
                code = client.find(words, timeout_s=TIMEOUT_S).code
                with self._lock:
                    self.log.queries.append((self.log.now(), float("nan"), code))

    def _change(self) -> None:
        with GraspClient() as client:
            service = client.node.create_client(SetParameters, "/molmo/set_parameters")
            if service.wait_for_service(10.0):
                kind, number = ParameterType.PARAMETER_DOUBLE, self._random.uniform(0.02, 0.05)
                value = ParameterValue(type=kind, double_value=number)
                asked = SetParameters.Request(parameters=[Parameter(name="max_sigma", value=value)])
                client.spin_until(service.call_async(asked), TIMEOUT_S)


def _heard(client: GraspClient, service: Any) -> bool:
    """Whether an answer came: DDS drops those to a client that the node has not discovered yet."""
    empty = Ground.Request(query="")  # refused at once
    return any(client.spin_until(service.call_async(empty), 2.0) for _ in range(5))


def summary(log: Log) -> dict[str, Any]:
    """What counts; times of answered queries outside bursts, in ms."""
    codes = Counter(code or "answered" for _, _, code in log.queries)
    times = np.array([ms for _, ms, code in log.queries if not code and np.isfinite(ms)])
    first, last = (float(np.percentile(part, 95)) for part in _ends(times))
    memory = np.array([mb for when, mb in log.memory if when >= WARM_UP * log.memory[-1][0]])
    settled, at_last = (float(np.median(part)) for part in _ends(memory))
    return {
        "minutes": round(log.memory[-1][0] / 60, 2),
        "requests": len(log.queries),
        "answered": codes["answered"],
        "codes": dict(codes),
        "lost": codes["LOST"],
        "followed_frames": log.followed,
        "faults": dict(Counter(name for _, name in log.faults)),
        "p50_ms": float(np.median(times)),
        "p95_first_tenth_ms": first,
        "p95_last_tenth_ms": last,
        "slower": last / first,
        "memory_mb": at_last,
        "memory_growth": at_last / settled - 1,
    }


def _ends(values: Array) -> tuple[Array, Array]:
    """The first and the last tenth; NaN if there are none."""
    tenth = max(len(values) // 10, 1)
    return (values[:tenth], values[-tenth:]) if len(values) else (np.array([np.nan]), np.array([np.nan]))


def plot(log: Log, path: Path) -> None:
    """Time of each query and memory over time, faults as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(10, 5), layout="constrained")
    answered = np.array([(when, ms) for when, ms, code in log.queries if not code and np.isfinite(ms)])
    refused = [when for when, _, code in log.queries if code]
    memory = np.array(log.memory)
    above.plot(answered[:, 0] / 60, answered[:, 1], ".", markersize=2, label="answered")
    above.plot(np.array(refused) / 60, np.full(len(refused), 1.0), "|", color="tab:red", label="refused")
    above.set(ylabel="query, ms", yscale="log")
    above.legend(loc="upper right")
    below.plot(memory[:, 0] / 60, memory[:, 1])
    below.set(ylabel="memory of the node, MB", xlabel="minutes", ylim=(0, None))
    for when, _ in log.faults:
        below.axvline(when / 60, color="0.85", linewidth=0.5, zorder=0)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def soak(
    minutes: float,
    seed: int,
    fault_every_s: float = 10.0,
    rate_hz: float = RATE_HZ,
    most_age_s: float = MOST_AGE_S,
) -> tuple[Log, bool]:
    """One run: what happened, and whether camera and node are still alive at its end."""
    share = Path(get_package_share_directory("molmo_ros"))
    env = {**os.environ, **fastdds_profile(share, os.environ)}  # as the launch files do
    with Processes(env) as processes:
        run = Soak(processes, seed, rate_hz, most_age_s)
        log = run.run(60 * minutes, fault_every_s)
        return log, run.alive


def _resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6
    except (OSError, IndexError):
        return float("nan")


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 if a request was lost, the node died, or memory or time grew beyond the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="default 2")
    parser.add_argument("--seed", type=int, default=0, help="of faults and queries (0)")
    parser.add_argument(
        "--fault-every", type=float, default=10.0, metavar="S", help="seconds between faults (10)"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw times and memory")
    options = parser.parse_args(arguments)
    try:
        log, alive = soak(options.minutes, options.seed, options.fault_every)
    except MolmoRosError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    result = {"alive": alive, **summary(log)}
    print(json.dumps(result))
    if options.plot:
        plot(log, options.plot)
    bad = result["lost"] or result["memory_growth"] > MOST_GROWTH or result["slower"] > MOST_SLOWER
    return int(bool(bad) or not alive)


if __name__ == "__main__":
    raise SystemExit(main())
