"""The node, its camera, and all who trouble them.

A simulated camera at 30 Hz and the node as processes of their own; a query per second, tracks that come and
go, and at random moments a fault: the camera stalls (SIGSTOP) until its frames are too old, a client is
killed in the middle of its track, a burst of calls, a nonsense query, a parameter that changes.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ament_index_python.packages import get_package_share_directory
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters

from molmo_ros.errors import CancelledError
from molmo_ros.ros.bringup import fastdds_profile
from molmo_ros.ros.client import GraspClient
from molmo_ros.ros.context import REQUEST_QOS
from molmo_ros.ros.processes import Processes
from molmo_ros.srv import Ground
from molmo_ros.tools.soak.log import Log, Usage

SPACE = "/soak"  # a namespace of its own: another node molmo may run on this machine, and would answer too
MOLMO = f"{SPACE}/molmo"
RATE_HZ = 30.0
QUERIES = ("the white bowl", "all the mugs", "the blue banana", "the bowl")
TIMEOUT_S = 30.0  # of a query; later than that it is lost
MOST_AGE_S = 3.0  # of a frame; the camera stalls for a second longer
GRACE_S = 10.0  # for an answer to arrive, on a busy machine
BURST = 20
WARM_UP_S = 120.0  # at most, from a ready node to its third answer
KINDS = ("stop_camera", "kill_client", "burst", "nonsense", "change")  # of faults
REFERENCE = np.random.default_rng(0).standard_normal(150_000)  # sorting it takes about 10 ms of one thread
DOOMED = f"""
from molmo_ros.ros.client import GraspClient
with GraspClient("{MOLMO}") as client:
    for _ in client.track("the white bowl"):
        print("following", flush=True)
"""


class Soak:
    """The node, its camera, and all who trouble them."""

    def __init__(self, processes: Processes, seed: int, rate_hz: float, most_age_s: float) -> None:
        self._random, self._most_age_s = random.Random(seed), most_age_s
        names = ["-r", f"__ns:={SPACE}"]
        self._camera = processes.start_node(
            "molmo_ros.ros.sim_camera_node", {"rate": rate_hz, "seed": 0}, names
        )
        settings = {"max_frame_age_s": most_age_s, "frame_wait_s": most_age_s}
        self._node = processes.start_node("molmo_ros.ros.node", settings, names)
        self._client = GraspClient(MOLMO)
        self._end = threading.Event()
        self._lock = threading.Lock()
        self.log = Log()

    def run(self, seconds: float, fault_every_s: float) -> Log:
        """Run until the time is up. Raises: NotReadyError if the node does not start."""
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
            self.log.usage.append(_usage(self.log.now(), self._node.pid))
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
        """Tracks that come and go, one after the other; half of them are left before their time is up."""
        with GraspClient(MOLMO) as client:
            while not self._end.wait(0.5):
                left_at = time.monotonic() + self._random.uniform(0.5, 6.0)
                for told in client.track(QUERIES[0], duration_s=5.0):
                    self.log.followed += told.stage == "following"
                    if time.monotonic() > left_at or self._end.is_set():
                        break

    def _trouble(self, every_s: float) -> None:
        """Rounds of faults, each kind once in a round."""
        faults: dict[str, Callable[[], None]] = {kind: getattr(self, f"_{kind}") for kind in KINDS}
        round_: list[str] = []
        while not self._end.wait(self._random.uniform(0.5, 1.5) * every_s):
            round_ = round_ or self._random.sample(KINDS, len(KINDS))
            kind = round_.pop()
            self.log.faults.append((self.log.now(), kind))
            faults[kind]()

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
        with GraspClient(MOLMO) as client:
            service = client.node.create_client(Ground, f"{MOLMO}/ground", qos_profile=REQUEST_QOS)
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
        with GraspClient(MOLMO) as client:
            for words in ("", "\x00<points coords=", "x" * 100_000):
                code = client.find(words, timeout_s=TIMEOUT_S).code
                with self._lock:
                    self.log.queries.append((self.log.now(), float("nan"), code))

    def _change(self) -> None:
        with GraspClient(MOLMO) as client:
            service = client.node.create_client(SetParameters, f"{MOLMO}/set_parameters")
            if service.wait_for_service(10.0):
                kind, number = ParameterType.PARAMETER_DOUBLE, self._random.uniform(0.02, 0.05)
                value = ParameterValue(type=kind, double_value=number)
                asked = SetParameters.Request(parameters=[Parameter(name="max_sigma", value=value)])
                client.spin_until(service.call_async(asked), TIMEOUT_S)


def _heard(client: GraspClient, service: Any) -> bool:
    """Whether an answer came: DDS drops those to a client that the node has not discovered yet."""
    empty = Ground.Request(query="")  # refused at once
    return any(client.spin_until(service.call_async(empty), 2.0) for _ in range(5))


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


def _usage(now_s: float, pid: int) -> Usage:
    """Raises nothing: NaN where /proc does not tell."""
    begun = time.monotonic()
    np.sort(REFERENCE)
    reference_ms = 1e3 * (time.monotonic() - begun)
    try:
        pages = [int(word) for word in Path(f"/proc/{pid}/statm").read_text().split()]
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        status = Path(f"/proc/{pid}/status").read_text()
        shared_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssShmem"))
    except (OSError, IndexError, StopIteration):
        nan = float("nan")
        return Usage(now_s, nan, nan, nan, reference_ms)
    memory_mb = pages[1] * os.sysconf("SC_PAGE_SIZE") / 1e6
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Usage(now_s, memory_mb, shared_kb * 1024 / 1e6, cpu_s, reference_ms)
